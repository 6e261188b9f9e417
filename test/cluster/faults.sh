# shellcheck shell=bash
# What goes wrong with a node, on demand. Each fault is about the node chosen by "at" and ends with it.
# Sourced by ./cluster.

# tree PID: it and all of its descendants, parents first.
tree() {
  local child
  echo "$1"
  for child in $(cat "/proc/$1/task/"*/children 2> /dev/null); do tree "$child"; done
}

# known PROCESS: ends the script where the node has none of that name.
known() {
  alive || die "node $NODE is not up"
  [ -e "$DIR/processes/$1.command" ] ||
    die "node $NODE has no process $1; there are: $(cd "$DIR/processes" && echo *.command | sed 's/\.command//g')"
}

# running PROCESS: its id, which is that of the nsenter around it. That one stops itself when it finds its child stopped,
# goes on with it when it is continued, and ends with it.
running() { remembered "$DIR/processes/$1"; }

fault_pause() {
  local pid
  known "$1"
  pid=$(running "$1") || die "node $NODE: $1 does not run"
  # shellcheck disable=SC2046 # process ids
  kill -STOP $(tree "$pid")
}

fault_unpause() {
  local pid
  known "$1"
  pid=$(running "$1") || die "node $NODE: $1 does not run"
  # shellcheck disable=SC2046 # process ids
  kill -CONT $(tree "$pid" | tac) # nsenter at last: it must not find its child stopped again
}

fault_kill() {
  local pid
  known "$1"
  pid=$(running "$1") || return 0
  # shellcheck disable=SC2046 # process ids
  kill -KILL $(tree "$pid" | tail -n +2) 2> /dev/null || true # some end with their parent
  kill -CONT "$pid" 2> /dev/null || true # if it was paused
  within 300 gone "$DIR/processes/$1" || die "node $NODE: $1 does not end"
}

fault_restart() {
  fault_kill "$1"
  local words
  mapfile -d '' -t words < "$DIR/processes/$1.command"
  start "$1" "${words[@]}"
  await 300 "$1"
}

fault_network() {
  alive || die "node $NODE is not up"
  case $1 in
    off) ip -n "$SWITCH" link set "$PORT" down ;;
    on) ip -n "$SWITCH" link set "$PORT" up ;;
    *) misused ;;
  esac
}

# Nothing is written, and nothing is taken from the machine: blocks are only set aside. What the runtime itself deletes later is
# free again, so that an image of some kilobytes may still find room.
fault_disk() {
  local fill=/mnt/vda1/fill
  case $1 in
    full) # fallocate takes what there is before it fails
      in_node fallocate --length 1T $fill 2> /dev/null || true
      in_node test -s $fill || die "node $NODE: its disk could not be filled" ;;
    free) in_node rm -f $fill ;;
    *) misused ;;
  esac
}
