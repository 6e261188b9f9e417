package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/distribution/reference"
	"helm.sh/helm/v3/pkg/strvals"
	"k8s.io/apimachinery/pkg/labels"
)

// rule is what a single value must look like, for the decoder and for the JSON schema. Zero fields
// allow anything.
type rule struct {
	is        string   // "a DNS label", for messages
	oneOf     []string // the only values allowed
	pattern   *regexp.Regexp
	maxLength int                      // bytes
	min, max  int                      // of a number; text with bounds may be a number without quotes
	check     func(text string) string // what a JSON schema cannot: returns what is wrong, or ""
}

// rules by the names that the tags of config.go use.
var rules = map[string]rule{
	"version": {is: Version, oneOf: []string{Version}},
	"label": {is: "a DNS label: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends",
		pattern: regexp.MustCompile(`^` + label + `$`), maxLength: 63},
	"subdomain": {is: "a DNS subdomain: up to 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part",
		pattern: subdomain, maxLength: 253},
	"release": {is: "a Helm release name: up to 53 of a-z, 0-9, - and ., with a letter or digit at both ends",
		pattern: subdomain, maxLength: 53},
	"repository": {is: "an image name without a tag: up to 128 of a-z, 0-9 and single . _ - / within",
		pattern: regexp.MustCompile(`^` + component + `(/` + component + `)*$`), maxLength: 128},
	"alias": {is: "an image name without a tag, like registry.example:5000/team/web", check: checkAlias},
	"profile": {is: "a name of A-Z, a-z, 0-9, -, _ and . that starts with a letter or digit",
		pattern: regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)},
	"platform": {is: "a platform like linux/amd64",
		pattern: regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)},
	"secret": {is: "an id of A-Z, a-z, 0-9, -, _ and .", pattern: regexp.MustCompile(`^[-_.A-Za-z0-9]+$`)},
	"ssh": {is: "default, or id=path[,path] with an agent's socket or with keys",
		pattern: regexp.MustCompile(`^[-_.A-Za-z0-9]+(=[^,]+(,[^,]+)*)?$`)},
	"keepImages": {is: "a number from 1 to 100", min: 1, max: 100},
	"sha256":     {is: "a SHA-256: 64 digits of 0-9 and a-f", pattern: regexp.MustCompile(`^[0-9a-f]{64}$`)},
	"resource":   {is: "a resource like deployments.apps", pattern: subdomain},
	"httpPath":   {is: "an HTTP path like /healthz", pattern: regexp.MustCompile(`^/\S*$`)},
	"setPath": {is: `a path like a.b.c or a[0].b (. , and = within a key are written \. \, and \=)`, check: checkSetPath,
		pattern: regexp.MustCompile(`^` + setStep + `(\.` + setStep + `)*$`)},
	"port": {is: "a port: a number from 1 to 65535, or a name of up to 63 of a-z, 0-9 and -, " +
		"with a letter or digit at both ends", maxLength: 63, min: 1, max: 65535,
		pattern: regexp.MustCompile(`^(` + portNumber + `|[0-9]*[a-z]([-a-z0-9]*[a-z0-9])?|[0-9]+-[-a-z0-9]*[a-z0-9])$`)},
	"podPort": {is: "a container's port: a number from 1 to 65535, or a name of up to 15 of a-z, 0-9 " +
		"and single - within, one of them a letter", maxLength: 15,
		pattern: regexp.MustCompile(`^(` + portNumber + `|([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*)$`)},
	"localPort": {is: "a port from 1 to 65535, or 0 for a free one", max: 65535},
	"bind": {is: "localhost, or an IP address like 0.0.0.0 or ::1", check: checkAddress,
		pattern: regexp.MustCompile(`^(localhost|[0-9]+(\.[0-9]+){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$`)},
	"duration":  {is: "a duration, numbers with units (ms, s, m, h) like 30s or 1h30m", pattern: duration},
	"rollout":   {is: "a duration of at least 1s", pattern: duration, check: atLeast(time.Second)},
	"settle":    {is: "a duration of at least 10ms", pattern: duration, check: atLeast(10 * time.Millisecond)},
	"hook":      {is: "a duration of at least 1ms", pattern: duration, check: atLeast(time.Millisecond)},
	"chart":     {check: checkChart},
	"repo":      {is: "a URL that starts with https:// or http://", pattern: httpURL, check: checkURL},
	"semver":    {check: checkVersion},
	"onFailure": {is: "keep or rollback", oneOf: []string{"keep", "rollback"}},
	"buildIn":   {is: "auto, node or host", oneOf: []string{"auto", "node", "host"}},
	"push": {is: "a registry with a folder or without, like registry.example/team, or http:// and one",
		pattern: regexp.MustCompile(`^(https?://)?(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|` +
			`[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*:[0-9]+)(/` + component + `)*/?$`)},
	"selector":     {check: checkSelector},
	"imageRollout": {is: "later or now", oneOf: []string{"later", "now"}},
	"syncFrom": {is: "a path or pattern relative to the context, without ..", check: checkPattern,
		pattern: regexp.MustCompile(`^` + pathStep + `(/` + pathStep + `?)*$`)},
	"syncTo": {is: "a path in the image, absolute or relative to its WORKDIR, without ..", check: checkImagePath,
		pattern: regexp.MustCompile(`^` + pathStep + `?(/` + pathStep + `?)*$`)},
	"then": {is: "nothing, restart, or a command as a list",
		pattern: regexp.MustCompile(`^(` + thenNothing + `|` + thenRestart + `)$`)},
}

const (
	label      = `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
	setStep    = `(\\.|[^.,=\\[])(\\.|[^.,=\\])*`
	component  = `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`      // of a repository's path
	pathStep   = `([^/.][^/]*|\.([^/.][^/]*)?|\.\.[^/]+)` // any name but ..
	portNumber = `[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]`
)

var (
	subdomain = regexp.MustCompile(`^` + label + `(\.` + label + `)*$`)
	duration  = regexp.MustCompile(`^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`)
	httpURL   = regexp.MustCompile(`^https?://`)
	ociChart  = regexp.MustCompile(`^oci://[^/@]+(/` + component + `)+(:[A-Za-z0-9_][-+.A-Za-z0-9_]{0,127})?$`)
	scheme    = regexp.MustCompile(`^[A-Za-z][-+.A-Za-z0-9]*://`)
)

// violation returns what is wrong with a value, given as text, or "".
func (r rule) violation(text string) string {
	switch {
	case r.pattern != nil && !r.pattern.MatchString(text), r.maxLength > 0 && len(text) > r.maxLength,
		r.oneOf != nil && !slices.Contains(r.oneOf, text):
		return fmt.Sprintf("%q must be %s", text, r.is)
	case r.check != nil:
		return r.check(text)
	}
	return ""
}

func isURL(s string) bool { return scheme.MatchString(s) }

func isOCI(chart string) bool { return strings.HasPrefix(chart, "oci://") }

func checkAlias(text string) string {
	named, err := reference.ParseNormalizedNamed(text)
	switch {
	case err != nil:
		return fmt.Sprintf("%q is no image name: %v", text, err)
	case !reference.IsNameOnly(named):
		return fmt.Sprintf("%q must have no tag and no digest: whatever stands there is replaced", text)
	}
	return ""
}

func checkURL(text string) string {
	if u, err := url.Parse(text); err != nil || u.Host == "" {
		return fmt.Sprintf("%q is not a URL", text)
	}
	return ""
}

func checkChart(chart string) string {
	switch {
	case !isURL(chart):
		return ""
	case checkURL(chart) != "":
		return checkURL(chart)
	case isOCI(chart) && strings.LastIndex(chart, "@") > strings.LastIndex(chart, "/"):
		return fmt.Sprintf("%q cannot have a digest; pin the chart's archive with sha256", chart)
	case isOCI(chart) && !ociChart.MatchString(chart):
		return fmt.Sprintf("%q must be like oci://host/path/name or oci://host/path/name:tag", chart)
	case !isOCI(chart) && !httpURL.MatchString(chart):
		return fmt.Sprintf("%q cannot be downloaded; a chart's URL starts with https://, http:// or oci://", chart)
	}
	return ""
}

func checkVersion(text string) string {
	if _, err := semver.NewConstraint(text); err != nil {
		return fmt.Sprintf("%q must be a version like 2024.1.0, or a range like ^1.2", text)
	}
	return ""
}

func checkSetPath(text string) string {
	err := strvals.ParseInto(text+"=", map[string]any{})
	var index *strconv.NumError
	switch {
	case errors.As(err, &index):
		return fmt.Sprintf("%q is no path for helm --set: the index %q must be a whole number, as in a[0].b", text, index.Num)
	case err != nil:
		return fmt.Sprintf("%q is no path for helm --set: %v", text, err)
	}
	return ""
}

func checkSelector(text string) string {
	selector, err := labels.Parse(text)
	switch {
	case err != nil:
		return fmt.Sprintf("%q must be a label selector like app.kubernetes.io/name=web: %v", text, err)
	case selector.Empty():
		return fmt.Sprintf("%q must be a label selector like app.kubernetes.io/name=web", text)
	}
	return ""
}

func checkPattern(text string) string {
	if strings.HasPrefix(text, "!") {
		return fmt.Sprintf("%q: patterns say what is synced, none says what is not; a .dockerignore keeps files out of "+
			"the image", text)
	}
	for part := range strings.SplitSeq(text, "/") {
		if _, err := path.Match(part, ""); err != nil {
			return fmt.Sprintf("%q is no pattern: [ needs a ], and \\ a character after it", part)
		}
	}
	return ""
}

func checkImagePath(text string) string {
	if strings.HasPrefix(text, "~") || strings.Contains(text, "$") {
		return fmt.Sprintf("%q must be the path itself: ~ and variables are not replaced", text)
	}
	return ""
}

func checkAddress(text string) string {
	if _, err := netip.ParseAddr(text); err != nil && text != "localhost" {
		return fmt.Sprintf("%q is no IP address", text)
	}
	return ""
}

func atLeast(limit time.Duration) func(text string) string {
	return func(text string) string {
		if d, err := time.ParseDuration(text); err == nil && d < limit {
			return fmt.Sprintf("must be at least %s, but is %s", limit, text)
		}
		return ""
	}
}
