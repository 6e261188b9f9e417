package build

// The options of BuildKit's Dockerfile frontend. The build sends them to BuildKit, and the hash
// runs the frontend's own code with them: so whatever the frontend accepts has a hash, which
// depends on the effect of every option.

import (
	"bytes"
	"maps"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxFrontendFile is how large a Dockerfile or a .dockerignore may be, in bytes: the bound of
// BuildKit's frontend (maxFileSize in its frontend/dockerui/readfile.go).
const maxFrontendFile = defaults.DefaultMaxRecvMsgSize

// frontendOptions are the options of "dockerfile.v0".
func (i Image) frontendOptions(platform ocispecs.Platform, args map[string]string) map[string]string {
	options := map[string]string{
		"filename": filepath.Base(i.Dockerfile),
		// Docker's copy of the base image was hashed, even if the registry has a newer one.
		"image-resolve-mode": "local",
		"platform":           platforms.Format(platform), // that was hashed, whatever machine builds
	}
	if i.Target != "" {
		options["target"] = i.Target
	}
	for key, value := range args {
		options["build-arg:"+key] = value
	}
	return options
}

// convertOptions returns the options with which BuildKit's frontend would read the Dockerfile.
func (i Image) convertOptions(args map[string]string, bases llb.ImageMetaResolver) (dockerfile2llb.ConvertOpt, error) {
	platform, err := i.platform()
	if err != nil {
		return dockerfile2llb.ConvertOpt{}, err
	}
	frontend, err := dockerui.NewClient(optionsOnly{options: i.frontendOptions(platform, args)})
	if err != nil {
		return dockerfile2llb.ConvertOpt{}, err
	}
	caps := frontend.BuildOpts().LLBCaps
	return dockerfile2llb.ConvertOpt{
		Config: frontend.Config, TargetPlatform: &platform, MetaResolver: bases, LLBCaps: &caps,
	}, nil
}

// optionsOnly is a BuildKit that can do everything and is only asked for its options. If the real
// one cannot, the build reports it.
type optionsOnly struct {
	gateway.Client // nil: to read the options, nothing is asked
	options        map[string]string
}

// BuildOpts implements gateway.Client.
func (o optionsOnly) BuildOpts() gateway.BuildOpts {
	return gateway.BuildOpts{
		Opts:    o.options,
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()),
		Workers: []gateway.WorkerInfo{{Platforms: []ocispecs.Platform{thisMachine()}}},
	}
}

// externalFrontend is the image that a "# syntax=" line or BUILDKIT_SYNTAX names to read the
// Dockerfile, "" for BuildKit's own frontend. Another one may make another image of the same lines.
func externalFrontend(dockerfile []byte, args map[string]string) string {
	if named := args["BUILDKIT_SYNTAX"]; named != "" {
		return named
	}
	_, syntax, _, _ := parser.DetectSyntax(dockerfile)
	return syntax
}

// withoutProxies drops the build arguments that only say how to reach the network, as BuildKit's
// own cache does. One that the Dockerfile names may end up in the image, and stays.
func withoutProxies(args map[string]string, dockerfile []byte) map[string]string {
	kept := maps.Clone(args)
	for _, proxy := range []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"} {
		maps.DeleteFunc(kept, func(key, _ string) bool {
			return strings.EqualFold(key, proxy) && !bytes.Contains(dockerfile, []byte(key))
		})
	}
	return kept
}
