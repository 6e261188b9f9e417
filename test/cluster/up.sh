# shellcheck shell=bash disable=SC2154 # "here" is the sourcing script's
# How a cluster comes up. Sourced by ./cluster; "up" is the story in order.

# Of the file system that the runtime keeps its images in: what it may grow to. It takes what is in it.
DISK=20G

up() {
  [[ $NAME =~ ^[a-z][a-z0-9-]{0,34}$ && ! $NAME =~ -m[0-9]{2}$ ]] ||
    die "a cluster's name is of a-z, 0-9 and -, and does not end like a worker's: not $NAME"
  [[ $RUNTIME =~ ^(containerd|docker)$ ]] || die "a runtime is containerd or docker, not $RUNTIME"
  [[ $COUNT =~ ^[1-9]$ ]] || die "a cluster has 1 to 9 nodes, not $COUNT"
  [[ $GRACE =~ ^([1-9][0-9])?$ ]] || die "a node's grace is 10 to 99 seconds, not $GRACE"
  build
  place "$NAME"
  local inputs="$RUNTIME $COUNT${GRACE:+ $GRACE}${ELSEWHERE:+ elsewhere} $KUBE $ROOTFS $images"
  at "$NAME"
  if [ -e "$RUN/ready" ] && alive; then
    say "cluster $NAME is already up"
    [ "$(cat "$RUN/ready")" = "$inputs" ] || say "it was made from other inputs or options: take it down first to have it made anew"
    return
  fi
  if [ -e "$RUN" ]; then
    say "removing what an earlier cluster $NAME left"
    down
  fi
  local begin=$SECONDS
  # What Ctrl+C cuts off is taken down again.
  trap '[[ ! $? =~ ^(129|130|143)$ ]] || { place "$NAME"; down; }' EXIT
  part "cluster-$NAME" $((10 + 5 * COUNT)) "starting the cluster $NAME" bring_up
  trap - EXIT
  echo "$inputs" > "$RUN/ready"
  say "cluster $NAME is up after $((SECONDS - begin)) s: $(nodes | paste -sd' ')"
}

bring_up() {
  local workers=() node
  mkdir -p "$RUN/nodes"
  ln -s "$KUBE/bin" "$RUN/bin"
  save_sysctls
  make_switch
  while [ ${#workers[@]} -lt $((COUNT - 1)) ]; do workers+=("$NAME-$(printf m%02d $((${#workers[@]} + 2)))"); done

  for node in "$NAME" "${workers[@]}"; do
    at "$node"
    start_namespaces
    connect
    configure
    make_certificates
    start_runtime
  done
  at "$NAME"
  start_control_plane
  local importers=()
  for node in "$NAME" "${workers[@]}"; do
    at "$node"
    await_runtime
    import "$KUBE/pause.tar"
    (for tar in $images; do import "$tar"; done) 9>&- & # while the control plane starts
    importers+=($!)
  done
  at "$NAME"
  await_control_plane
  for node in "$NAME" "${workers[@]}"; do
    at "$node"
    start_agents
  done
  for node in "$NAME" "${workers[@]}"; do
    at "$node"
    await 300 kubelet
    await 300 sshd
  done
  at "$NAME"
  await 300 kube-controller-manager
  await 300 dns
  for node in "${importers[@]}"; do wait "$node" || die "cluster $NAME: not all images could be imported"; done
  write_profile
}

# ---- network -------------------------------------------------------------------------------------

# Each cluster has a network of its own, the first that nothing on this machine uses, and a switch: a bridge in a namespace,
# where no firewall of the machine looks at what passes. Making the namespace is what claims the network.
make_switch() {
  local taken
  taken=$(ip -4 -o address; ip -4 route)
  for SLOT in {77..127} none; do
    [ "$SLOT" != none ] || die "no free network: every 192.168.X.0/24 from 77 to 127 is in use on this machine"
    ! grep -qF "192.168.$SLOT." <<< "$taken" && ip netns add "dl-test-$SLOT" 2> /dev/null || continue
    break
  done
  echo "$SLOT" > "$RUN/slot"
  place "$NAME"
  ip -n "$SWITCH" link add switch type bridge
  ip -n "$SWITCH" link set switch up
  ip link add "$SWITCH" type veth peer name machine netns "$SWITCH"
  ip -n "$SWITCH" link set machine master switch up
  ip address add "$NETWORK.1/24" dev "$SWITCH"
  ip link set "$SWITCH" up
}

# The node's cable to the switch. No default route: nothing leaves the cluster, and a pull fails at once. The route of the
# services only makes the node's own processes try, so that kube-proxy's rules see their packets.
connect() {
  ip -n "$SWITCH" link add "$PORT" type veth peer name eth0 netns "$(remembered "$DIR/node")"
  ip -n "$SWITCH" link set "$PORT" master switch up
  in_node bash -euc "
    ip address add $IP/24 dev eth0
    ip link set eth0 up
    ip route add $SERVICE_CIDR dev eth0
    for other in {0..$((COUNT - 1))}; do # their pods
      [ 10.244.\$other.0/24 = $NODE_POD_CIDR ] || ip route add 10.244.\$other.0/24 via $NETWORK.\$((2 + other))
    done
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables" || die "node $NODE: its network could not be set up"
}

# ---- processes -----------------------------------------------------------------------------------

is_pause() { [ "$(cat "/proc/$1/comm")" = pause ]; }

start_namespaces() {
  local dir parent pid
  rm -rf "$LOG"
  mkdir -p "$LOG" "$DIR"/{processes,root,upper/usr/local/sbin,work,state/etc/kubernetes/pki}
  truncate -s $DISK "$DIR/disk.img"
  mkfs.ext4 -q -m 0 -O ^has_journal "$DIR/disk.img" || die "node $NODE: $DIR/disk.img could not be formatted"
  if [ "$RUNTIME" = docker ]; then
    cp "$CRI_DOCKERD" "$DIR/upper/usr/local/sbin/cri-dockerd"
    cp "$here/node/runc" "$DIR/upper/usr/local/sbin/runc"
  else
    cp "$BUILDKIT"/* "$DIR/upper/usr/local/sbin"
  fi
  for dir in $(cgroup_parents); do mkdir -p "$dir/$CGROUP"; done
  modprobe -qa overlay br_netfilter loop 2> /dev/null || true # built into some kernels
  setsid unshare --mount --net --uts --ipc --pid --fork --kill-child "$here/node/init" "$NODE" "$ROOTFS" "$DIR" "$KUBE/bin" \
    < /dev/null > "$LOG/init" 2>&1 9>&- &
  parent=$!
  remember $parent "$DIR/unshare" # so that even a half-made node can be taken down: its child ends with it
  within 300 grep -q . "/proc/$parent/task/$parent/children" || { cat "$LOG/init" >&2; die "node $NODE: unshare failed: see $LOG/init"; }
  read -r pid < "/proc/$parent/task/$parent/children" || [ -n "$pid" ] # the file ends without a newline
  remember "$pid" "$DIR/node"
  within 300 is_pause "$pid" || { cat "$LOG/init" >&2; die "node $NODE: its root filesystem could not be put together: see $LOG/init"; }
}

configure() {
  local etc=$DIR/state/etc/kubernetes file runtime_socket=/run/containerd/containerd.sock
  [ "$RUNTIME" != docker ] || runtime_socket=/run/cri-dockerd.sock
  for file in containerd.toml buildkitd.toml docker.json cni.conflist kubelet.yaml kube-proxy.yaml dns.yaml sshd_config; do
    sed "s|@NODE@|$NODE|; s|@IP@|$IP|; s|@CGROUP@|$CGROUP|; s|@POD_CIDR@|$POD_CIDR|; s|@NODE_POD_CIDR@|$NODE_POD_CIDR|
      s|@DNS_IP@|$DNS_IP|; s|@RUNTIME_SOCKET@|$runtime_socket|" "$here/node/$file" > "$etc/$file"
  done
  # A kubelet renews its lease in a quarter of its time, so that eight signs of life have to be missed.
  [ -z "$GRACE" ] || echo "nodeLeaseDurationSeconds: $((GRACE / 2))" >> "$etc/kubelet.yaml"
  in_node bash -euc '
    ssh-keygen -q -t ed25519 -N "" -C devloop-test -f /etc/kubernetes/id
    mv /etc/kubernetes/id.pub /etc/kubernetes/authorized_keys
    mkdir -p /etc/cni/net.d
    cp /etc/kubernetes/cni.conflist /etc/cni/net.d/10-node.conflist' || die "node $NODE: no ssh key"
}

# The first node makes the cluster's authority, each node what it needs itself: openssl is in the nodes.
make_certificates() {
  local pki=state/etc/kubernetes/pki first=$RUN/nodes/$NAME
  [ "$NODE" = "$NAME" ] || cp "$first/$pki"/ca.{crt,key} "$DIR/$pki"
  in_node bash -s "$NAME" "$NODE" "$IP" "$NETWORK.2" "$API_IP" < "$here/node/pki" > "$LOG/pki" 2>&1 ||
    die "node $NODE: no certificates: see $LOG/pki"
  if [ "$NODE" = "$NAME" ]; then install -m 600 "$DIR/state/etc/kubernetes/admin.conf" "$RUN/kubeconfig"; else rm "$DIR/$pki/ca.key"; fi
}

start_runtime() {
  start containerd containerd --config /etc/kubernetes/containerd.toml
  start sshd /usr/sbin/sshd -D -e -f /etc/kubernetes/sshd_config
}

await_runtime() {
  await 300 containerd
  if [ "$RUNTIME" != docker ]; then
    start buildkitd buildkitd --config /etc/kubernetes/buildkitd.toml
    await 300 buildkitd
    return
  fi
  start dockerd dockerd --config-file /etc/kubernetes/docker.json --pidfile '' # it would take a killed one's for its own
  await 300 dockerd
  start cri-dockerd cri-dockerd --container-runtime-endpoint unix:///run/cri-dockerd.sock \
    --pod-infra-container-image pause:node --cni-bin-dir /usr/lib/cni --cni-conf-dir /etc/cni/net.d
  await 300 cri-dockerd
}

start_control_plane() {
  local pki=/etc/kubernetes/pki
  start etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync
  start kube-apiserver kube-apiserver --advertise-address="$IP" --secure-port=8443 \
    --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range=$SERVICE_CIDR --authorization-mode=Node,RBAC \
    --client-ca-file=$pki/ca.crt --tls-cert-file=$pki/apiserver.crt --tls-private-key-file=$pki/apiserver.key \
    --kubelet-client-certificate=$pki/apiserver-kubelet-client.crt \
    --kubelet-client-key=$pki/apiserver-kubelet-client.key \
    --kubelet-certificate-authority=$pki/ca.crt --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file=$pki/sa.pub --service-account-signing-key-file=$pki/sa.key \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --endpoint-reconciler-type=lease
}

await_control_plane() {
  local pki=/etc/kubernetes/pki conf=/etc/kubernetes
  await 300 kube-apiserver
  start kube-controller-manager kube-controller-manager --kubeconfig=$conf/kube-controller-manager.conf \
    ${GRACE:+--node-monitor-grace-period="${GRACE}s"} --leader-elect=false --bind-address=127.0.0.1 --kube-api-qps=300 --kube-api-burst=600 \
    --use-service-account-credentials=true --root-ca-file=$pki/ca.crt \
    --service-account-private-key-file=$pki/sa.key \
    --cluster-signing-cert-file=$pki/ca.crt --cluster-signing-key-file=$pki/ca.key
  start kube-scheduler kube-scheduler --kubeconfig=$conf/kube-scheduler.conf --leader-elect=false --bind-address=127.0.0.1
  kubectl apply -f "$DIR/state$conf/dns.yaml" > /dev/null || die "cluster $NAME: its DNS could not be set up"
  start dns kube dns --kubeconfig $conf/dns.conf --listen "$IP:53"
}

# A boot ID is the kernel's, and all nodes have this machine's. The kubelet reports what stands there.
move_elsewhere() {
  in_node bash -euc '
    cat /proc/sys/kernel/random/uuid > /run/boot_id
    mount --bind /run/boot_id /proc/sys/kernel/random/boot_id' || die "node $NODE: it could not be given another boot ID"
}

start_agents() {
  [ -z "$ELSEWHERE" ] || move_elsewhere
  start kubelet kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet-client.conf \
    --hostname-override="$NODE" --node-ip="$IP" --v=2
  start kube-proxy kube-proxy --config=/etc/kubernetes/kube-proxy.yaml
}

import() { # TAR
  local load=(ctr -n k8s.io images import -)
  [ "$RUNTIME" != docker ] || load=(docker load)
  in_node "${load[@]}" < "$1" > "$LOG/import" 2>&1 ||
    { tail -5 "$LOG/import" >&2; die "node $NODE: $RUNTIME could not import $1: see $LOG/import"; }
}

# ---- profile -------------------------------------------------------------------------------------

# What minikube leaves of machines of a VM driver, as far as devloop reads it.
write_profile() {
  local home=$RUN/minikube/.minikube pki=$RUN/nodes/$NAME/state/etc/kubernetes/pki list='' control_plane=true node machine suffix
  mkdir -p "$home"/{config,certs,profiles/"$NAME"}
  echo "{\"profile\": \"$NAME\"}" > "$home/config/config.json"
  install -m 600 "$pki/docker-client.key" "$home/certs/key.pem"
  cp "$pki/docker-client.crt" "$home/certs/cert.pem"
  cp "$pki/ca.crt" "$home/certs/ca.pem"
  for node in $(nodes); do
    at "$node"
    machine=$home/machines/$NODE
    mkdir -p "$machine"
    install -m 600 "$DIR/state/etc/kubernetes/id" "$machine/id_rsa"
    cat > "$machine/config.json" <<END
{
  "ConfigVersion": 3,
  "Driver": {"IPAddress": "$IP", "MachineName": "$NODE", "SSHUser": "docker", "SSHPort": 22, "SSHKeyPath": "$machine/id_rsa"},
  "DriverName": "kvm2",
  "Name": "$NODE"
}
END
    suffix=${NODE#"$NAME"}
    list+=${list:+,}"
    {\"Name\": \"${suffix#-}\", \"IP\": \"$IP\", \"Port\": 8443, \"KubernetesVersion\": \"$version\",
     \"ContainerRuntime\": \"$RUNTIME\", \"ControlPlane\": $control_plane, \"Worker\": true}"
    control_plane=false
  done
  cat > "$home/profiles/$NAME/config.json" <<END
{
  "Name": "$NAME",
  "Driver": "kvm2",
  "APIServerPort": 8443,
  "KubernetesConfig": {"KubernetesVersion": "$version", "ClusterName": "$NAME", "ContainerRuntime": "$RUNTIME"},
  "Nodes": [$list
  ]
}
END
}
