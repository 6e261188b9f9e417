#!/bin/sh
# shellcheck disable=SC3013 # dash, bash and busybox have -ef, -nt and -ot
#
# Looks at files in containers, or writes them, from the node that runs the containers, with the tools
# of the node: those of coreutils and tar, or busybox. (That of k3s has no stat.) Where no node can be
# reached, it runs in the container, with the container's own tools.
#
#   sh -c SCRIPT devloop look|write < INPUT
#
# INPUT is lines, with tabs between fields, up to a line with a dot; no field is empty:
#   c PID ID                    a container, by its first process; PID 0 is the one that this runs in
#   p PATH                      look at this path
#   - PATH                      nothing is to be there
#   d UMASK OWNER PATH          a folder; OWNER is - if a build says none
#   l GROUP OWNER TARGET PATH   a symbolic link
#   f GROUP OWNER MTIME PATH    a regular file
# Then, for write, a tar with the regular files as GROUP/NAME, and a folder "end", which says that it
# is whole. All of a group have one folder, and are sorted by name.
#
# It prints lines, with tabs between fields, about containers and paths by their numbers:
#   w C                         all was written
#   e C KIND TEXT               it was not; KIND: gone, refused or failed
#   a C P, d C P, o C P         nothing is there, a folder, or something else
#   l C P d|o TARGET            a link; d: it leads to a folder
#   f C P FILE                  a regular file
#   v C                         the container has not ended meanwhile
# and after some f, lines of "ls -lnd" and sha256sum about their FILEs, each list up to a line with a
# dot. The first are sorted by FILE.
#
# Nothing that a container does meanwhile may have an effect outside of it: any folder may become a link
# to anywhere. So nothing is changed by a path of more than one name. The folder is opened first; then
# it has to be in the mount of the container's root; only then is something done in it by one name:
# /proc/self/fd/8/NAME. tar creates files exclusively, mv into a folder follows no link, rm neither.
# File descriptors: 9 the root, 8 a folder, 7 the temporary folder, 6 a list, 5 the
# temporary files of a group. (Only tar itself makes files by two names, in a folder that is new.)
set -fu
umask 022
export LC_ALL=C
tab='	' nl='
'
IFS=$nl
fd=/proc/self/fd

# has_ended PID ID: whether PID is not the container's. What was done by /proc/PID before counts if not.
has_ended() {
  [ "$1" != 0 ] || return 1
  while read -r line; do
    case $line in *"$2"*) return 1 ;; esac
  done 2> /dev/null < "/proc/$1/cgroup"
  return 0
}

# resolve FOLDER sets real to what the container means by FOLDER, and missing to the part of it that is
# not there.
resolve() {
  real='' missing='' todo=$1/ links=0
  while [ -n "$todo" ]; do
    part=${todo%%/*} todo=${todo#*/}
    case $part in
      '' | .) ;;
      ..) if [ -n "$missing" ]; then missing=${missing%/*}; else real=${real%/*}; fi ;;
      *)
        if [ -n "$missing" ]; then
          missing=$missing/$part
        elif [ -L "$root$real/$part" ]; then
          links=$((links + 1))
          target=$(readlink "$root$real/$part")
          case $target in '' | *[[:cntrl:]]*) return 1 ;; esac
          [ "$links" -le 40 ] || return 1
          case $target in /*) real='' ;; esac
          todo=$target/$todo
        elif [ -d "$root$real/$part" ]; then
          real=$real/$part
        else
          missing=/$part
        fi
        ;;
    esac
  done
}

look() {
  set --
  c=0
  for container in $containers; do
    pid=${container%%"$tab"*} p=0 last=. root=''
    [ "$pid" = 0 ] || root=/proc/$pid/root
    for path in $paths; do
      folder=${path%/*} file=''
      if [ "$folder" != "$last" ]; then
        last=$folder where=''
        if resolve "$folder" && [ -z "$missing" ]; then where=$root$real/; fi
      fi
      [ -z "$where" ] || file=$where${path##*/}
      if [ -L "$file" ]; then
        target=$(readlink "$file")
        link=$target type=o
        if resolve "$path" && [ -z "$missing" ]; then type=d; fi
        case $link in *[[:cntrl:]]*) link='?' ;; esac
        printf 'l\t%s\t%s\t%s\t%s\n' "$c" "$p" "$type" "$link"
      elif [ -f "$file" ]; then
        printf 'f\t%s\t%s\t%s\n' "$c" "$p" "$file"
        set -- "$@" "$file"
        if [ $# -ge 200 ]; then
          measure "$@"
          set --
        fi
      elif [ -d "$file" ]; then
        echo "d$tab$c$tab$p"
      elif [ -e "$file" ]; then
        echo "o$tab$c$tab$p"
      else
        echo "a$tab$c$tab$p"
      fi
      p=$((p + 1))
    done
    c=$((c + 1))
  done
  [ $# = 0 ] || measure "$@"
  c=0
  for container in $containers; do
    has_ended "${container%%"$tab"*}" "${container#*"$tab"}" || echo "v$tab$c"
    c=$((c + 1))
  done
}

measure() { # FILE...
  ls -lnd -- "$@" 2> /dev/null
  echo .
  sha256sum -- "$@" 2> /dev/null
  echo .
}

# stop KIND TEXT ends the work in a container.
stop() {
  printf 'e\t%s\t%s\t%s\n' "$c" "$1" "$2"
  reported=1
  exit 1
}

# finish runs when the work in a container ends, in whatever way.
finish() {
  trap '' HUP INT TERM PIPE
  remove_stage
  [ -z "$reported" ] || return
  text=''
  while read -r line; do text="$text$line; "; done < "$work/$c.err"
  if has_ended "$pid" "$id"; then
    printf 'e\t%s\tgone\t.\n' "$c"
  else
    printf 'e\t%s\tfailed\t%s\n' "$c" "${text%; }"
  fi
}

# mount_of FD sets mount.
mount_of() {
  mount=''
  while IFS="$tab" read -r key value; do
    [ "$key" != mnt_id: ] || mount=$value
  done < "/proc/self/fdinfo/$1"
}

# enter FOLDER opens a folder whose path has no links.
enter() {
  exec 8< "$root$1/."
  mount_of 8
  [ "$mount" = "$root_mount" ] || stop refused "a volume covers ${1:-/}"
}

# check_covered PATH: renaming or removing what a volume covers would take the volume away.
check_covered() {
  case $mounts in *"|$1|"* | *"|$1/"*) stop refused "a volume covers $1" ;; esac
}

# clear FOLDER removes all that is in a folder.
clear() (
  folder=$1
  enter "$folder"
  set --
  set +f
  for entry in "$fd"/8/* "$fd"/8/.[!.]* "$fd"/8/..?*; do
    if [ -d "$entry" ] && [ ! -L "$entry" ]; then
      clear "$folder/${entry##*/}"
      rmdir "$entry"
    elif [ -e "$entry" ] || [ -L "$entry" ]; then
      set -- "$@" "$entry"
      [ $# -lt 200 ] || { rm -f -- "$@"; set --; }
    fi
  done
  [ $# = 0 ] || rm -f -- "$@"
)

# open_folder PATH UMASK OWNER opens a folder, and makes what is missing of it.
open_folder() {
  resolve "$1" || stop refused "the links on the way to $1 cannot be followed"
  while [ -n "$missing" ]; do
    next=${missing#/} next=${next%%/*}
    check_covered "$real/$next"
    enter "$real"
    [ ! -e "$fd/8/$next" ] || rm -f "$fd/8/$next" || exit
    mask=022
    [ "$missing" != "/$next" ] || mask=$2
    umask "$mask"
    mkdir "$fd/8/$next" || exit
    umask 022
    choose_owner "$3" ''
    [ "$number" = "$mine" ] || chown -h "$number" "$fd/8/$next" || exit
    real=$real/$next missing=${missing#"/$next"}
  done
  enter "$real"
}

# choose_owner OWNER NEIGHBOURS sets number to the owner of what is new: that of the files that are
# replaced, as a build may change them all; what the plan says; or that of the files around.
choose_owner() {
  number=$common
  [ -z "$number" ] || return 0
  case $1 in
    -) number=${2:-0:0} ;;
    *) number_of "$1" ;;
  esac
}

# number_of OWNER sets number to uid:gid, by the users and groups of the container.
number_of() {
  case $numbers in
    *"|$1="*)
      number=${numbers#*"|$1="}
      number=${number%%|*}
      return
      ;;
  esac
  user=${1%%:*} uid=${1%%:*} gid=${1%%:*}
  case $user in *[!0-9]*) look_up passwd "$user" && uid=$third gid=$fourth ;; esac
  case $1 in
    *:*)
      gid=${1#*:}
      case $gid in *[!0-9]*) look_up group "$gid" && gid=$third ;; esac
      ;;
  esac
  number=$uid:$gid
  case $number in :* | *: | *[!0-9:]*) stop refused "it has no user or group $1" ;; esac
  numbers="$numbers|$1=$number|"
}

# look_up passwd|group NAME sets third and fourth, fields of the line of that name.
look_up() {
  saved=$real
  resolve /etc
  list=$root$real/$1 real=$saved missing='' third='' fourth=''
  if [ -L "$list" ] || [ ! -f "$list" ]; then return 1; fi
  while IFS=: read -r first _ third fourth _; do
    [ "$first" != "$2" ] || return 0
  done < "$list"
  return 1
}

# make_stage makes a temporary folder, and puts all files into it.
make_stage() { # FOLDER, which may be the root
  enter "$1"
  set +f
  for stage in "$fd"/8/.devloop-sync-*; do # left by one that was killed
    if [ -d "$stage" ] && [ ! -d "/proc/${stage##*-}" ]; then
      clear "$1/${stage##*/}"
      rmdir "$stage"
    fi
  done
  set -f
  stage=$1/.devloop-sync-$$
  umask 077
  mkdir "$fd/8/.devloop-sync-$$" || { stage=''; exit 1; }
  exec 7< "$fd/8/.devloop-sync-$$/."
  mount_of 7
  [ "$mount" = "$root_mount" ] || exit
  umask 0
  tar -x -o -f "$work/tar" -C $fd/7 || exit
  umask 022
  [ -d $fd/7/end ] || stop failed "only a part of the files has arrived"
}

remove_stage() {
  [ -n "$stage" ] || return
  gone=$stage stage=''
  set --
  for g in $groups; do set -- "$@" "$fd/7/$g"; done
  command exec 8< "$root${gone%/*}/." && mount_of 8 || return
  [ "$mount" = "$root_mount" ] || return
  rmdir "$@" $fd/7/end "$fd/8/${gone##*/}" 2> /dev/null && return
  # Not all was moved.
  (
    clear "$gone"
    rmdir "$fd/8/${gone##*/}"
  ) 2> /dev/null
}

is_file() { [ -f "$1" ] && [ ! -L "$1" ]; }

# fields LINE sets kind, g, owner, extra, path and name of a file or a link. extra is its time or target.
fields() {
  kind=${1%%"$tab"*} rest=${1#*"$tab"}
  g=${rest%%"$tab"*} rest=${rest#*"$tab"}
  owner=${rest%%"$tab"*} rest=${rest#*"$tab"}
  case $kind in
    f | l) extra=${rest%%"$tab"*} path=${rest#*"$tab"} ;;
    *) return 1 ;;
  esac
  name=${path##*/}
}

# owners_of FILE... prints lines like those of ls, of which only the owner counts.
owners_of() {
  for file in "$@"; do
    if ! [ -O "$file" ] || ! [ -G "$file" ]; then
      ls -lnd -- "$@"
      return
    fi
  done
  for file in "$@"; do echo "- 1 ${mine%:*} ${mine#*:} -"; done
}

# agreed sets all to the owner that all lines have, '' if they differ.
agreed() {
  all=''
  while IFS=' ' read -r _ _ uid gid _; do
    case $all in '' | "$uid:$gid") all=$uid:$gid ;; *) all=none ;; esac
  done
  [ "$all" != none ] || all=''
}

# neighbours sets around to the owner of the other files of the open folder, if they have the same.
neighbours() {
  around=$(
    set --
    set +f
    for file in "$fd"/8/*; do
      if is_file "$file"; then set -- "$@" "$file"; fi
      [ $# -lt 50 ] || break
    done
    owners_of "$@" > "$work/$c.around"
    agreed < "$work/$c.around"
    echo "$all"
  )
}

write_one() { # PID ID
  pid=$1 id=$2 reported='' stage='' groups='' root=$fd/9 numbers='' mine=0:0 self=$1
  : > "$work/$c.err"
  exec 2> "$work/$c.err"
  trap finish EXIT
  trap 'exit 1' HUP INT TERM PIPE
  if [ "$pid" = 0 ]; then
    self=self mine=$(id -u):$(id -g)
    exec 9< /.
  else
    exec 9< "/proc/$pid/root/."
    [ "/proc/$pid/ns/user" -ef /proc/self/ns/user ] || stop refused "it is in a user namespace of its own"
    ! [ $fd/9/. -ef /. ] || stop refused "it has no file system of its own"
  fi
  mount_of 9
  root_mount=$mount mounts='|'
  [ -n "$mount" ] || stop refused "the kernel does not tell mounts apart"
  while IFS=' ' read -r _ _ _ _ point _; do
    case $point in *\\*) point=$(printf %b "$(printf %s "$point" | sed 's/\\/\\0/g')") ;; esac
    mounts="$mounts$point|"
  done < "/proc/$self/mountinfo"
  ! has_ended "$pid" "$id" || stop gone .

  # Everything that can go wrong comes before anything is replaced.
  : > "$work/$c.owners"
  set --
  group=''
  for line in $plan; do
    fields "$line" || continue
    if [ "$g" != "$group" ]; then
      owners_of "$@" >> "$work/$c.owners" || exit
      set --
      group=$g groups="$groups$nl$g"
      resolve "${path%/*}" || stop refused "the links on the way to ${path%/*} cannot be followed"
      [ -n "$missing" ] || enter "$real"
    fi
    check_covered "$real/$name"
    if [ -z "$missing" ] && is_file "$fd/8/$name"; then set -- "$@" "$root$real/$name"; fi
  done
  owners_of "$@" >> "$work/$c.owners" || exit
  agreed < "$work/$c.owners"
  common=$all
  [ "$mine" = 0:0 ] || common=$mine # all that another user than root can do

  group=''
  for line in $plan; do
    case $line in
      "d$tab"*)
        rest=${line#*"$tab"} mask=${rest%%"$tab"*} rest=${rest#*"$tab"}
        open_folder "${rest#*"$tab"}" "$mask" "${rest%%"$tab"*}"
        ;;
      *)
        fields "$line" || continue
        [ "$g" != "$group" ] || continue
        group=$g
        open_folder "${path%/*}" 022 "$owner"
        [ -n "$stage" ] || if [ -w $fd/9 ]; then make_stage ''; else make_stage "$real"; fi
        ;;
    esac
  done

  for line in $plan; do
    case $line in "-$tab"*) remove "${line#*"$tab"}" ;; esac
  done

  exec 6< "$work/$c.owners"
  set --
  group='' batch=''
  for line in $plan; do
    fields "$line" || continue
    if [ "$g" != "$group" ]; then
      move "$@"
      set --
      group=$g batch='' around=none
      open_folder "${path%/*}" 022 "$owner"
      folder=$real
      [ -d "$fd/7/$g" ] || mkdir "$fd/7/$g" || exit
      exec 5< "$fd/7/$g/."
      mount_of 5
      [ "$mount" = "$root_mount" ] || exit
    fi
    old=$fd/8/$name new=$fd/5/$name
    [ "$kind" = f ] || ln -s -- "$extra" "$new" || exit
    if is_file "$old"; then
      IFS=' ' read -r _ _ uid gid _ <&6 || stop failed "$folder/$name changed meanwhile"
      number=$uid:$gid
      [ "$mine" = 0:0 ] || number=$mine
      # Python takes a module that was compiled for one with the same time and size.
      if [ "$kind" = f ] && ! [ "$new" -nt "$old" ] && ! [ "$new" -ot "$old" ]; then
        touch -d "@$((extra + 1))" "$new" || exit
      fi
    else
      if [ -d "$old" ] && [ ! -L "$old" ]; then
        clear "$folder/$name"
        rmdir "$old" || exit
      fi
      if [ "$owner" = - ] && [ "$around" = none ]; then neighbours; fi
      choose_owner "$owner" "$around"
    fi
    if [ "$number" != "$batch" ]; then
      move "$@"
      set --
      batch=$number
    fi
    set -- "$@" "$new"
  done
  move "$@"
  remove_stage
  ! has_ended "$pid" "$id" || stop gone .
  echo "w$tab$c"
  reported=1
}

# move gives files their owner, and moves them into the open folder.
move() { # FILE...
  [ $# != 0 ] || return 0
  [ "$batch" = "$mine" ] || chown -h "$batch" "$@" || exit
  mv -f "$@" $fd/8/. || exit
}

# remove PATH removes a file, or a folder if nothing but what Python compiled is in it.
remove() {
  resolve "${1%/*}" || return
  [ -z "$missing" ] || return
  name=${1##*/}
  [ -e "$root$real/$name" ] || [ -L "$root$real/$name" ] || return
  check_covered "$real/$name"
  enter "$real"
  if [ -L "$fd/8/$name" ] || [ ! -d "$fd/8/$name" ]; then
    rm -f -- "$fd/8/$name" || exit
  else
    if [ -d "$fd/8/$name/__pycache__" ]; then
      clear "$real/$name/__pycache__"
      enter "$real/$name"
      rmdir $fd/8/__pycache__
      enter "$real"
    fi
    rmdir "$fd/8/$name" 2> /dev/null
  fi
}

# fail_all KIND TEXT says why nothing can be done in any of the containers.
fail_all() {
  text=${2%%"$nl"*} work=''
  c=0
  for container in $containers; do
    printf 'e\t%s\t%s\t%s\n' "$c" "$1" "$text"
    c=$((c + 1))
  done
  cat > /dev/null # a command that leaves some of its input counts as failed
  exit 0
}

containers='' paths='' plan='' whole=''
while IFS= read -r line; do
  case $line in
    .)
      whole=1
      break
      ;;
    "c$tab"*) containers="$containers${line#*"$tab"}$nl" ;;
    "p$tab"*) paths="$paths${line#*"$tab"}$nl" ;;
    *) plan="$plan$line$nl" ;;
  esac
done
[ -n "$whole" ] || { echo "only a part of the plan has arrived" >&2; exit 1; }
for tool in cat chown id ln ls mkdir mktemp mv readlink rm rmdir sed sha256sum tar touch; do
  command -v "$tool" > /dev/null || fail_all refused "there is no $tool"
done
if [ "$1" = write ]; then
  work=''
  trap '[ -z "$work" ] || rm -rf "$work"' EXIT
  trap 'exit 1' HUP INT TERM PIPE
  temp=/var/tmp
  [ -w $temp ] || temp=/tmp
  set +f
  for work in "$temp"/devloop-sync-*-*; do # left by one that was killed
    pid=${work#*-sync-} pid=${pid%-*}
    if [ -O "$work" ] && [ ! -d "/proc/$pid" ]; then rm -rf "$work"; fi
  done
  set -f
  work=$(mktemp -d "$temp/devloop-sync-$$-XXXXXX" 2>&1) || fail_all failed "$work"
  cat > "$work/tar" || exit
  c=0
  for container in $containers; do
    (write_one "${container%%"$tab"*}" "${container#*"$tab"}") &
    c=$((c + 1))
    [ $((c % 8)) != 0 ] || wait
  done
  wait
fi
look
