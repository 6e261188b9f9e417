# shellcheck shell=bash disable=SC2034 # for the scripts that source it
# Shared by the scripts of test/: where things are cached, how a script shows what it does, how processes are
# remembered and ended, and a Docker daemon to build with. Sourced, not run.

CACHE=${DEVLOOP_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/devloop-test}
DOCKER_DIR=$CACHE/docker
# Which CA certificates this machine trusts: builds in containers have to trust them, too.
CA_BUNDLE=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2 || true; } # the terminal may be gone
die() { say "error: $*"; exit 99; } # this status tells the calling scripts that there has been a message

# What fails without a word of its own. A script that was interrupted has said so.
set -E
trap '[[ $? =~ ^(99|129|130|143)$ ]] || die "line $LINENO of ${BASH_SOURCE[0]}: failed: $BASH_COMMAND"' ERR

trap 'interrupted HUP 129' HUP
trap 'interrupted INT 130' INT
trap 'interrupted TERM 143' TERM
interrupted() { # SIGNAL STATUS
  trap '' HUP INT TERM
  end_part
  # After Ctrl+C make reports a script's status as an error. It got the same signal, and ends with its status without a word.
  if [ "$1" = INT ] && [ "$(cat "/proc/$PPID/comm" 2> /dev/null)" = make ]; then
    kill -INT "$PPID"
    exit 0
  fi
  exit "$2"
}

# part NAME SECONDS TITLE COMMAND...: runs a command that takes about so long, with its output in log/NAME.log. It shows one line,
# and after a failure the end of the log, without a terminal all of it. A command with nothing to do shows nothing. V=1 shows the
# output instead. The command may be a function. It runs in a subshell, and in a process group that ends with the script.
group='' progress='' part_tail=20
[ -t 2 ] || part_tail=+1
part() {
  local log=$CACHE/log/$1.log about=$2 title=$3 begin=$SECONDS status=0 took
  shift 3
  if [ -n "${V-}${DEVLOOP_TEST_PART-}" ]; then # a part within a part writes to the log of the outer one
    echo "$title  about $(duration "$about")" >&2
    ("$@") # as below: it leaves the script's variables and folder alone
    return
  fi
  mkdir -p "$CACHE/log"
  set -m
  group=starting
  (
    set +m
    export DEVLOOP_TEST_PART=1
    [ "$(type -t "$1")" = function ] || exec "$@"
    "$@"
  ) < /dev/null > "$log" 2>&1 &
  group=$!
  set +m
  show_progress > /dev/null 9>&- &
  progress=$!
  wait "$group" || status=$?
  group=''
  end_progress
  took=$((SECONDS - begin))
  if [ $status != 0 ]; then
    tail -n "$part_tail" "$log" >&2
    die "$title: failed after $(duration $took): see $log"
  fi
  [ $took -lt 2 ] || echo "$title  $(duration $took)" >&2
}

# On a terminal a line that counts, elsewhere one that says where to look. The variables are part's.
show_progress() {
  sleep 2 2> /dev/null
  if [ ! -t 2 ]; then
    echo "$title  about $(duration "$about"), details in $log" >&2
    return
  fi
  while kill -0 $$; do # also if the script was killed
    printf '\r\e[?7l%s  %s of about %s  %s\e[K\e[?7h' \
      "$title" "$(duration $((SECONDS - begin)))" "$(duration "$about")" "${log/#$HOME\//\~/}" >&2
    sleep 1 2> /dev/null
  done
}
end_progress() {
  [ -n "$progress" ] || return 0
  { kill "$progress" && wait "$progress"; } 2> /dev/null || true
  progress=''
  [ ! -t 2 ] || printf '\r\e[K' >&2
}

end_part() {
  end_progress
  [ "$group" != starting ] || group=${!-} # a signal came in between
  [ -n "$group" ] || return 0
  kill -TERM -- "-$group" 2> /dev/null || true
  within 30 part_gone || kill -KILL -- "-$group" 2> /dev/null || true
  say "interrupted: the next start goes on from here"
}
part_gone() { ! kill -0 -- "-$group"; }

duration() { # SECONDS
  if [ "$1" -lt 60 ]; then echo "$1s"; else echo "$(($1 / 60))m$(($1 % 60))s"; fi | sed 's/m0s$/m/'
}

need_root() { [ "$(id -u)" = 0 ] || die "namespaces, mounts and package installs need root: run this as root"; }

# One run at a time changes the cache; a script called by one that holds the lock goes on with it.
lock() {
  [ -z "${DEVLOOP_TEST_LOCKED-}" ] || return 0
  mkdir -p "$CACHE"
  exec 9> "$CACHE/lock"
  flock -n 9 || {
    say "waiting for another run that holds $CACHE/lock"
    flock -w 2400 9 || die "$CACHE/lock is still held after 40 minutes"
  }
  export DEVLOOP_TEST_LOCKED=1
}

# key FILE-OR-TEXT...: a short name for what something is made from.
key() {
  local part
  for part in "$@"; do
    if [ -f "$part" ]; then cat "$part"; else printf '%s\n' "$part"; fi
  done | sha256sum | cut -c1-12
}

# keep_only PATH...: removes what earlier inputs left beside PATH (NAME-oldkey beside NAME-newkey).
keep_only() {
  local path other
  for path in "$@"; do
    for other in "${path%-*}"-????????????*; do
      case $other in "$path"*) ;; *) rm -rf --one-file-system "$other" ;; esac
    done
  done
}

# install_package COMMAND PACKAGE: for a machine that lacks the command.
install_package() {
  ! command -v "$1" > /dev/null || return 0
  command -v apt-get > /dev/null || die "$1 is missing; this is no Debian, so install it by hand"
  part apt 30 "installing Debian's $2" apt_install "$2"
}
apt_install() ( # a subshell, for its trap
  # A package's services cannot be started where there is no systemd.
  if [ ! -d /run/systemd/system ] && [ ! -e /usr/sbin/policy-rc.d ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod +x /usr/sbin/policy-rc.d
  fi
  export DEBIAN_FRONTEND=noninteractive
  {
    dpkg --configure -a && # what an interrupted run has left half installed
      apt-get update &&
      apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$1"
  } < /dev/null 9>&- || die "apt-get could not install $1"
)

# A process is remembered by its id and start time, so that another one of the same id is never taken for it.
identity() { # PID
  local stat
  stat=$(cat "/proc/$1/stat" 2> /dev/null) || return 1
  # shellcheck disable=SC2086 # the fields after the command's name are numbers
  set -- "$1" ${stat##*) }
  [ "$2" != Z ] || return 1
  echo "$1 ${21} $(cat /proc/sys/kernel/random/boot_id)"
}
remember() { identity "$1" > "$2"; } # PID FILE
remembered() { # FILE: prints the id of the process, if it still runs
  local line
  line=$(cat "$1" 2> /dev/null) && [ -n "$line" ] && [ "$(identity "${line%% *}")" = "$line" ] && echo "${line%% *}"
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" > /dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

gone() { ! remembered "$1" > /dev/null; }

docker_answers() { command -v docker > /dev/null && timeout 120 docker version > /dev/null 2>&1; }

# docker_up: makes sure that a Docker daemon answers; sets DOCKER_HOST if it is one of ours.
docker_up() {
  ! docker_answers || return 0
  [ -z "${DOCKER_HOST-}" ] || [ "$DOCKER_HOST" = "unix://$DOCKER_DIR/docker.sock" ] ||
    die "no Docker daemon answers on DOCKER_HOST=$DOCKER_HOST"
  export DOCKER_HOST=unix://$DOCKER_DIR/docker.sock
  ! docker_answers || return 0
  need_root
  install_package dockerd docker.io
  part docker 5 "starting Docker" docker_start
}
docker_start() {
  docker_down
  mkdir -p "$DOCKER_DIR"
  # Tests build something new at every run: keep the build cache from filling the disk.
  echo '{"builder": {"gc": {"enabled": true, "defaultKeepStorage": "10GB"}}}' > "$DOCKER_DIR/daemon.json"
  ip link show docker0 > /dev/null 2>&1 || save_firewall > "$DOCKER_DIR/firewall"
  # The daemon's default for its own oom score is one that needs CAP_SYS_RESOURCE.
  DOCKER_HOST='' setsid dockerd --config-file "$DOCKER_DIR/daemon.json" --data-root "$DOCKER_DIR/data" --exec-root "$DOCKER_DIR/exec" \
    --pidfile "$DOCKER_DIR/docker.pid" --host "unix://$DOCKER_DIR/docker.sock" --oom-score-adjust 0 \
    < /dev/null > "$DOCKER_DIR/log" 2>&1 9>&- &
  remember $! "$DOCKER_DIR/process"
  within 300 docker_answers || { tail -5 "$DOCKER_DIR/log" >&2; die "dockerd does not answer after 300 s: see $DOCKER_DIR/log"; }
}

# docker_down: ends the daemon that docker_up started; what it has built stays in the cache.
docker_down() {
  local pid
  if pid=$(remembered "$DOCKER_DIR/process"); then
    kill "$pid"
    within 300 gone "$DOCKER_DIR/process" || die "dockerd (process $pid) does not end: see $DOCKER_DIR/log"
  fi
  [ ! -e "$DOCKER_DIR/firewall" ] || restore_firewall < "$DOCKER_DIR/firewall"
  rm -rf "$DOCKER_DIR"/{process,docker.pid,docker.sock,firewall}
}

# dockerd leaves its bridge, its rules, a FORWARD chain that drops, and forwarding itself switched on. Where no other Docker was
# before it, they go with it.
save_firewall() {
  local policy
  policy=$(iptables -S FORWARD 2> /dev/null | sed -n 's/^-P FORWARD //p') || true
  echo "${policy:-ACCEPT} $(cat /proc/sys/net/ipv4/ip_forward)"
}
restore_firewall() {
  local policy forward
  ! pgrep -x --ns $$ --nslist net dockerd > /dev/null || return 0 # another one that came later uses them, too
  read -r policy forward
  ip link delete docker0 2> /dev/null || true
  iptables-save | sed "/DOCKER/d; /docker0/d; s/^:FORWARD [A-Z]*/:FORWARD $policy/" | iptables-restore
  echo "$forward" > /proc/sys/net/ipv4/ip_forward
}

# docker_build ARGS...: with BuildKit, by a client that can (a newer one needs its buildx plugin for that).
docker_build() {
  local client=docker
  docker buildx version > /dev/null 2>&1 || [ ! -x /usr/bin/docker ] || client=/usr/bin/docker
  DOCKER_BUILDKIT=1 "$client" build "$@"
}

# pack_image NAME:TAG BINARY ARCHIVE: an image that holds nothing but a static binary, which it runs.
pack_image() {
  local tmp=$3.tmp file=${2##*/} layer
  rm -rf "$tmp"
  mkdir -p "$tmp"
  tar -C "${2%/*}" --owner=0 --group=0 --mtime=@0 -cf "$tmp/layer.tar" "$file"
  layer=$(sha256sum < "$tmp/layer.tar" | cut -d' ' -f1)
  cat > "$tmp/config.json" <<EOF
{"architecture": "$(go env GOARCH)", "os": "linux", "config": {"Entrypoint": ["/$file"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
EOF
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$1\"], \"Layers\": [\"layer.tar\"]}]" > "$tmp/manifest.json"
  tar -C "$tmp" -cf "$tmp/image.tar" manifest.json config.json layer.tar
  mv "$tmp/image.tar" "$3"
  rm -rf "$tmp"
}

# make_venv FOLDER REQUIREMENTS: a Python environment. It is there only once it is whole.
make_venv() {
  rm -rf "$1.tmp"
  /usr/bin/python3 -m venv "$1.tmp"
  "$1.tmp/bin/python" -m pip install -r "$2"
  mv "$1.tmp" "$1"
}
