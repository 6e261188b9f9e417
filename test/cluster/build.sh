# shellcheck shell=bash disable=SC2034,SC2154 # what it sets is for, and "here" is of, the sourcing script
# What a node is made of, built once and kept in the cache under names that change with the inputs.
# Sourced by ./cluster.

packages=containerd,runc,docker.io,containernetworking-plugins,iptables,conntrack,etcd-server
packages+=,openssh-server,sudo,iproute2,socat,procps,ca-certificates,openssl
packages+=,podman # in whose storage CRI-O keeps its images

locate() {
  command -v go > /dev/null || die "go is missing"
  version=$(sed -n 's/^\tk8s.io\/kubernetes \(v[^ ]*\)$/\1/p' "$here/go.mod")
  KUBE=$CACHE/kube-$(key "$(go version)" "$here"/go.{mod,sum} "$here"/{kube,pause}/*.go "$(declare -f build_kube)")
  CRI_DOCKERD=$CACHE/cri-dockerd-$(key "$(go version)" "$here"/cri-dockerd/{go.mod,go.sum,main.go})
  BUILDKIT=$CACHE/buildkit-$(key "$(go version)" "$here"/buildkit/{go.mod,go.sum})
  ROOTFS=$CACHE/rootfs-$(key "$packages" "$(declare -f build_rootfs)")
}

build_kube() {
  [ ! -d "$KUBE" ] || return 0
  say "building Kubernetes $version from source: about 10 minutes, once"
  local tmp=$KUBE.tmp flags name
  rm -rf "$tmp"
  mkdir -p "$tmp/bin"
  flags="-s -w -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version"
  flags+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<< "$version")"
  export CGO_ENABLED=0
  go -C "$here" build -trimpath -o "$tmp/bin/kube" -ldflags "$flags" ./kube || die "go could not build $here/kube"
  go -C "$here" build -trimpath -o "$tmp/bin/pause" -ldflags "-s -w" ./pause || die "go could not build $here/pause"
  for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
    ln -s kube "$tmp/bin/$name"
  done
  pack_image pause:node "$tmp/bin/pause" "$tmp/pause.tar" # what every pod's sandbox runs
  mv "$tmp" "$KUBE"
}

build_cri_dockerd() {
  [ ! -f "$CRI_DOCKERD" ] || return 0
  CGO_ENABLED=0 go -C "$here/cri-dockerd" build -trimpath -ldflags "-s -w" -o "$CRI_DOCKERD.tmp" . ||
    die "go could not build $here/cri-dockerd"
  mv "$CRI_DOCKERD.tmp" "$CRI_DOCKERD"
}

# A minikube node with containerd brings BuildKit along, to build in it.
build_buildkit() {
  [ ! -d "$BUILDKIT" ] || return 0
  mkdir -p "$BUILDKIT.tmp"
  CGO_ENABLED=0 go -C "$here/buildkit" build -trimpath -ldflags "-s -w" -o "$BUILDKIT.tmp/" \
    github.com/moby/buildkit/cmd/buildctl github.com/moby/buildkit/cmd/buildkitd || die "go could not build $here/buildkit"
  mv "$BUILDKIT.tmp" "$BUILDKIT"
}

# shellcheck disable=SC2016 # the hooks' $1 is mmdebstrap's
build_rootfs() {
  [ ! -d "$ROOTFS" ] || return 0
  install_package mmdebstrap mmdebstrap
  say "making the node's root filesystem: a minute or two, once"
  local tmp=$ROOTFS.tmp log=$CACHE/rootfs.log
  rm -rf --one-file-system "$tmp"
  mmdebstrap --mode=root --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook='chroot "$1" useradd --create-home --gid docker --shell /bin/bash --password "*" docker' \
    --customize-hook='echo "docker ALL=(ALL) NOPASSWD: ALL" > "$1/etc/sudoers.d/docker"' \
    --customize-hook='rm -f "$1"/etc/cni/net.d/*' \
    bookworm "$tmp" < /dev/null > "$log" 2>&1 9>&- ||
    { tail -5 "$log" >&2; die "mmdebstrap could not make $tmp: see $log"; }
  mv "$tmp" "$ROOTFS"
}

build() {
  need_root
  locate
  install_package mkfs.ext4 e2fsprogs
  part kubernetes 600 "building Kubernetes" build_kube
  part rootfs 120 "making the node's root filesystem" build_rootfs
  if [ "${RUNTIME-}" = docker ]; then
    part cri-dockerd 180 "building cri-dockerd" build_cri_dockerd
  else
    part buildkit 120 "building BuildKit" build_buildkit
  fi
  images=
  [ -n "${BARE-}" ] || images=$("$here/../images/build")
  # A running node uses what it was started with.
  compgen -G "$CACHE/run/*/nodes" > /dev/null || keep_only "$KUBE" "$CRI_DOCKERD" "$BUILDKIT" "$ROOTFS"
}
