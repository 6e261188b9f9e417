package build

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/moby/client"
)

// fullDocker answers like a daemon that has every image, each with ONBUILD triggers.
func fullDocker(t testing.TB) *client.Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		_, _ = fmt.Fprintf(w, `{"Id": "sha256:1", "Os": "linux", "Architecture": %q,
			"Config": {"Env": ["A=b"],
				"OnBuild": ["COPY triggered /", "RUN --mount=target=/m,source=mounted,rw true"]}}`, runtime.GOARCH)
	}))
	t.Cleanup(server.Close)
	docker, err := client.New(client.WithHost("tcp://" + server.Listener.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Close() })
	return docker
}

// instructionSet is every instruction of the frontend with all its options. A Dockerfile that does
// not begin with FROM or ARG gets a stage "parent" to build on.
var instructionSet = []struct {
	lines   string
	reads   string // files of the context whose content counts, with a space in between
	refused bool   // by the frontend itself
}{
	{lines: "RUN --mount=target=/src true", reads: "a d/b"},
	{lines: "RUN --mount=target=/src,rw true", reads: "a d/b"},
	{lines: "RUN --mount=type=bind,source=.,target=/src,rw true", reads: "a d/b"},
	{lines: "RUN --mount=type=bind,source=d,target=/src,readwrite true", reads: "d/b"},
	{lines: "RUN --mount=type=bind,src=d,dst=/src,rw=true true", reads: "d/b"},
	{lines: "RUN --mount=type=bind,src=d,destination=src,rw=false true", reads: "d/b"},
	{lines: "RUN --mount=type=bind,source=a,target=/src,ro true", reads: "a"},
	{lines: "RUN --mount=type=bind,source=a,target=/src,readonly=false true", reads: "a"},
	{lines: "RUN --mount=type=bind,from=parent,source=/x,target=/src,rw true"},
	{lines: "RUN --mount=type=bind,from=elsewhere:1,target=/src,rw true"},
	{lines: "RUN --mount=type=bind,target=/ true", refused: true},
	{lines: "RUN --mount=type=bind,target=/src,rw=perhaps true", refused: true},
	{lines: "RUN --mount=type=bind,target=/src,size=1 true", refused: true},
	{lines: "RUN --mount=type=cache,target=/c true"},
	{lines: "RUN --mount=type=cache,id=c,target=/c,sharing=locked,from=parent,source=/x,mode=0700,uid=1,gid=2 true"},
	{lines: "RUN --mount=type=cache,target=/c,sharing=private,ro true"},
	{lines: "RUN --mount=type=cache,target=/c,mode=0700,uid=1,gid=2 true"},
	{lines: "RUN --mount=type=cache,target=/c,sharing=mine true", refused: true},
	// BuildKit needlessly asks for the whole context.
	{lines: "RUN --mount=type=tmpfs,target=/t,size=1g true", reads: "a d/b"},
	{lines: "RUN --mount=type=secret,id=s true"},
	{lines: "RUN --mount=type=secret,id=s,target=/s,required,mode=0400,uid=1,gid=2 " +
		"--mount=type=secret,id=e,env=E,required=true true"},
	{lines: "RUN --mount=type=secret true", refused: true},
	{lines: "RUN --mount=type=ssh true"},
	{lines: "RUN --mount=type=ssh,id=s,target=/s,required=true,mode=0600,uid=1,gid=2 true"},
	{lines: "RUN --mount=type=disk,target=/d true", refused: true},
	{lines: "ARG T=cache\nRUN --mount=type=$T,target=/c/$T true"},
	{lines: "RUN --network=none true"}, {lines: "RUN --network=host true"}, {lines: "RUN --network=default true"},
	{lines: "RUN --network=fast true", refused: true},
	{lines: "RUN --security=insecure true"}, {lines: "RUN --security=sandbox true"},
	{lines: "RUN --security=maybe true", refused: true},
	{lines: "RUN --device=vendor.com/class=gpu true"}, {lines: "RUN --device=name=vendor.com/class,required true"},
	{lines: "RUN [\"true\"]"},
	{lines: "RUN <<E\ntrue $A\nE"}, {lines: "RUN <<-'E' sh\n\t#!/bin/sh\n\ttrue\n\tE"},
	{lines: "RUN cat <<X <<Y\nx\nX\ny\nY"},
	{lines: "COPY <<E <<-'F' a /etc/\nhello $A\nE\n\tno $A\n\tF", reads: "a"},
	{lines: "COPY a d /x/", reads: "a d/b d/e/f"},
	{lines: "COPY [\"a\", \"/x\"]", reads: "a"},
	{lines: "COPY ? /x/", reads: "a d/b"},
	{lines: "COPY --link --chmod=755 --chown=1:2 a /x", reads: "a"},
	{lines: "COPY --link a /x", reads: "a"}, {lines: "COPY --link=false a /x", reads: "a"},
	{lines: "COPY --link --chown=me a /x", refused: true},
	{lines: "COPY --chmod=u+x,go= --chown=me:us a /x", reads: "a"},
	{lines: "COPY --parents d/./e/f a /x/", reads: "a d/e/f"},
	{lines: "COPY --parents --exclude=*.md --exclude=d/e --link --chmod=go-w . /x/", reads: "a d/b"},
	{lines: "COPY --from=parent --parents --exclude=*.md /x/./y /z/"}, {lines: "COPY --from=0 /x /y"},
	{lines: "COPY --from=elsewhere:2 /x /y"},
	{lines: "COPY --from=$A /x /y", refused: true},
	{lines: "COPY --fast a /x", refused: true},
	{lines: "ADD a d /x/", reads: "a d/b"},
	{lines: "ADD --unpack --link --chown=1 --chmod=644 a /x/", reads: "a"},
	{lines: "ADD --unpack=false --exclude=e d /x/", reads: "d/b"},
	{lines: "ADD --checksum=sha256:" + strings.Repeat("a", 64) + " --unpack https://example.org/a.tgz /x/"},
	{lines: "ADD --link --chmod=600 http://example.org/a.tgz https://example.org/b /x/"},
	{lines: "ADD --checksum=sha256:aa https://example.org/a.tgz /x/", refused: true},
	{lines: "ADD --keep-git-dir --link https://example.org/a.git#main:d /x"},
	{lines: "ADD --keep-git-dir=true git@example.org:a/b.git /x"},
	{lines: "ADD --checksum=" + strings.Repeat("a", 40) +
		" https://example.org/a.git?branch=main&subdir=d&submodules=false /x"},
	{lines: "ADD <<E /x\nhello\nE"},
	{lines: "ONBUILD COPY a /x"}, {lines: "ONBUILD RUN --mount=target=/src,rw true"},
	{lines: "ONBUILD FROM x", refused: true},
	{lines: "SHELL [\"sh\", \"-c\"]\nRUN true"}, {lines: "SHELL sh", refused: true},
	{lines: "HEALTHCHECK NONE"},
	{lines: "HEALTHCHECK --interval=5s --timeout=1s --start-period=1s --start-interval=1s --retries=3 CMD true"},
	{lines: "STOPSIGNAL SIGINT"}, {lines: "VOLUME [\"/v\"]"}, {lines: "VOLUME /v /w"},
	{lines: "EXPOSE 80 81-83/udp $A"}, {lines: "EXPOSE a-b-c", refused: true},
	{lines: "MAINTAINER me"}, {lines: "LABEL a=b \"c d\"='e'"}, {lines: "ENV A=b C=${A:-d} D=${A#b} E=${A//b/c}"},
	{lines: "ENV A b c"}, {lines: "ARG A B=1 C"},
	{lines: "WORKDIR x\nWORKDIR ../y"}, {lines: "USER 1:2"}, {lines: "CMD [\"a\"]"}, {lines: "CMD a"},
	{lines: "ENTRYPOINT a $A"},
	{lines: "FROM scratch\nCOPY --from=later /x /y\nFROM scratch AS later"},
	{lines: "FROM --platform=$BUILDPLATFORM scratch AS p\nCOPY a /\nFROM --platform=linux/riscv64 scratch\n" +
		"COPY --from=p /a /", reads: "a"},
	{lines: "FROM --platform=nowhere/ scratch", refused: true},
	{lines: "ARG V=1\nARG N=scratch\nFROM ${N:-x}\nARG V\nCOPY a /$V", reads: "a"},
	{lines: "ARG V\nFROM ${V:?who}", refused: true},
	{lines: "FROM withtriggers\nCOPY a /", reads: "a triggered mounted"},
	{lines: "# escape=`\nFROM scratch\nCOPY `\n a /", reads: "a"},
	{lines: "# check=skip=all;error=true\nFROM scratch\nCOPY a /", reads: "a"},
	{lines: "# syntax=docker/dockerfile:1-labs\nFROM scratch\nCOPY --parents a /", reads: "a"},
}

// Whatever the frontend accepts has a hash, which depends on just the files that it reads.
func TestHashTakesWhatTheFrontendTakes(t *testing.T) {
	docker := fullDocker(t)
	files := tree{"a": "a", "d/b": "b", "d/e/f": "f", "note.md": "n", "triggered": "t", "mounted": "m", "unused": "u",
		".dockerignore": "unused"}
	caps := pb.Caps.CapSet(pb.Caps.All())
	for _, instruction := range instructionSet {
		t.Run(instruction.lines, func(t *testing.T) {
			dockerfile := instruction.lines
			if !strings.HasPrefix(dockerfile, "FROM") && !strings.Contains(dockerfile, "\nFROM") {
				dockerfile = "FROM scratch AS parent\nCOPY note.md /x/y\nFROM parent\n" + dockerfile
			}
			platform := thisMachine()
			b := New(docker, t.TempDir())
			_, refused := dockerfile2llb.Dockerfile2LLB(t.Context(), []byte(dockerfile), dockerfile2llb.ConvertOpt{
				Config: dockerui.Config{}, TargetPlatform: &platform, MetaResolver: &baseResolver{builder: b},
				LLBCaps: &caps})
			if (refused != nil) != instruction.refused {
				t.Fatalf("the frontend says %v", refused)
			}
			hash := func(files tree) (string, error) {
				dir := files.with("Dockerfile", dockerfile).write(t)
				input, err := b.Hash(t.Context(),
					Image{Name: "worker", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
				return input.Hash, err
			}
			first, err := hash(files)
			if (err == nil) != (refused == nil) {
				t.Fatalf("%v, but the frontend says %v", err, refused)
			}
			if err != nil {
				return
			}
			for _, name := range strings.Fields(instruction.reads + " unused") {
				changed, err := hash(files.with(name, "changed"))
				if reads := name != "unused"; err != nil || (changed != first) != reads {
					t.Errorf("%s changed, and the hash %v: %v", name, changed != first, err)
				}
			}
			if !slices.Contains(strings.Fields(instruction.reads), "a") {
				if changed, err := hash(files.with("a", "changed")); err != nil || changed != first {
					t.Errorf("nothing reads a, but the hash changed, %v", err)
				}
			}
		})
	}
}

// The hash depends on the effect of the frontend's options, and on an external frontend.
func TestHashCountsWhatTheFrontendIsAsked(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nRUN --mount=type=cache,target=/c true\n"}.write(t)
	hash := func(args map[string]string) string {
		return hashOf(t, dir, func(i *Image) { i.Args = args }).Hash
	}
	seen := map[string]string{hash(nil): "no arguments"}
	for _, arg := range []string{"BUILDKIT_SANDBOX_HOSTNAME", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_SYNTAX"} {
		got := hash(map[string]string{arg: "x"})
		if other, ok := seen[got]; ok {
			t.Errorf("the same hash for %s and %s", arg, other)
		}
		seen[got] = arg
	}
	if _, ok := seen[hash(map[string]string{"NOT_USED": "x"})]; !ok {
		t.Error("an argument that nothing uses changes the hash")
	}
	other := tree{"Dockerfile": "# syntax=example.org/frontend\nFROM scratch\n" +
		"RUN --mount=type=cache,target=/c true\n"}.write(t)
	if _, ok := seen[hashOf(t, other, nil).Hash]; ok {
		t.Error("another frontend does not count")
	}
}
