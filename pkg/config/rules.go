package config

// What a single value has to look like. Each rule stands here once: for what is read, and for the JSON schema.

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"k8s.io/apimachinery/pkg/labels"
)

// rule is what a value has to be. What is zero does not matter.
type rule struct {
	is          string   // "a DNS label", for messages
	oneOf       []string // the only values that there are
	pattern     *regexp.Regexp
	longest     int                      // characters
	least, most int                      // of a number; text with such bounds may be one, without quotes
	breaks      func(text string) string // what a JSON schema cannot check: returns what is wrong, or ""
}

// rules by the names that the tags of config.go use.
var rules = map[string]rule{
	"version":    {is: Version, oneOf: []string{Version}},
	"label":      {is: "a DNS label: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends", pattern: label, longest: 63},
	"subdomain":  {is: "a DNS subdomain: up to 253 of a-z, 0-9, - and ., with a letter or digit at both ends of each part", pattern: subdomain, longest: 253},
	"release":    {is: "a Helm release name: up to 53 of a-z, 0-9, - and ., with a letter or digit at both ends", pattern: subdomain, longest: 53},
	"repository": {is: "an image name without a tag: up to 128 of a-z, 0-9 and single . _ - / within", pattern: repository, longest: 128},
	"profile":    {is: "a name of A-Z, a-z, 0-9, -, _ and . that starts with a letter or digit", pattern: regexp.MustCompile(`^[A-Za-z0-9][-_.A-Za-z0-9]*$`)},
	"platform":   {is: "a platform like linux/amd64", pattern: regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)},
	"secret":     {is: "an id of A-Z, a-z, 0-9, -, _ and .", pattern: regexp.MustCompile(`^[-_.A-Za-z0-9]+$`)},
	"ssh":        {is: "default, or id=path[,path] with an agent's socket or with keys", pattern: regexp.MustCompile(`^[-_.A-Za-z0-9]+(=[^,]+(,[^,]+)*)?$`)},
	"keepImages": {is: "a number from 1 to 100", least: 1, most: 100},
	"sha256":     {is: "a SHA-256: 64 digits of 0-9 and a-f", pattern: regexp.MustCompile(`^[0-9a-f]{64}$`)},
	"resource":   {is: "a resource like deployments.apps", pattern: subdomain},
	"httpPath":   {is: "an HTTP path like /healthz", pattern: regexp.MustCompile(`^/\S*$`)},
	"setPath":    {is: `a path like a.b.c (a dot within a key is written \.)`, pattern: regexp.MustCompile(`^(\\.|[^.\\])+(\.(\\.|[^.\\])+)*$`)},
	"port":       {is: "a port: a number from 1 to 65535, or a name of up to 63 of a-z, 0-9 and -, with a letter or digit at both ends", pattern: port, longest: 63, least: 1, most: 65535},
	"podPort":    {is: "a container's port: a number from 1 to 65535, or a name of up to 15 of a-z, 0-9 and single - within, one of them a letter", pattern: podPort, longest: 15},
	"localPort":  {is: "a port from 1 to 65535, or 0 for a free one", most: 65535},
	"bind":       {is: "localhost, or an IP address like 0.0.0.0 or ::1", pattern: bind, breaks: isNoAddress},
	"duration":   {is: "a duration, numbers with units (ms, s, m, h) like 30s or 1h30m", pattern: duration},
	"rollout":    {is: "a duration of at least 1s", pattern: duration, breaks: isShorterThan(time.Second)},
	"settle":     {is: "a duration of at least 10ms", pattern: duration, breaks: isShorterThan(10 * time.Millisecond)},
	"hook":       {is: "a duration of at least 1ms", pattern: duration, breaks: isShorterThan(time.Millisecond)},
	"chart":      {breaks: isNoChartURL},
	"repo":       {is: "a URL that starts with https:// or http://", pattern: httpURL, breaks: isNoURL},
	"semver":     {breaks: isNoVersion},
	"onFailure":  {is: "keep or rollback", oneOf: []string{"keep", "rollback"}},
	"buildIn":    {is: "auto, node or host", oneOf: []string{"auto", "node", "host"}},
	"push":       {is: "a registry with a folder or without, like registry.example/team, or http:// and one", pattern: push},
	"selector":   {breaks: isNoSelector},
}

var (
	label      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	repository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	duration   = regexp.MustCompile(`^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`)
	port       = regexp.MustCompile(`^(` + portNumber + `|[0-9]*[a-z]([-a-z0-9]*[a-z0-9])?|[0-9]+-[-a-z0-9]*[a-z0-9])$`) // or a label that is no number
	podPort    = regexp.MustCompile(`^(` + portNumber + `|([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*)$`)
	bind       = regexp.MustCompile(`^(localhost|[0-9]+(\.[0-9]+){3}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)$`)
	httpURL    = regexp.MustCompile(`^https?://`)
	push       = regexp.MustCompile(`^(https?://)?(localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*:[0-9]+)(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*/?$`)
	ociChart   = regexp.MustCompile(`^oci://[^/@]+(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][-+.A-Za-z0-9_]{0,127})?$`)
	scheme     = regexp.MustCompile(`^[A-Za-z][-+.A-Za-z0-9]*://`)
)

// portNumber is a port as text.
const portNumber = `[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]`

// breach returns what is wrong with a value, given as text, or "".
func (r rule) breach(text string) string {
	if r.pattern != nil && !r.pattern.MatchString(text) || r.longest > 0 && len(text) > r.longest || r.oneOf != nil && !slices.Contains(r.oneOf, text) {
		return fmt.Sprintf("%q must be %s", text, r.is)
	}
	if r.breaks != nil {
		return r.breaks(text)
	}
	return ""
}

func isURL(s string) bool { return scheme.MatchString(s) }

func isOCI(chart string) bool { return strings.HasPrefix(chart, "oci://") }

func isNoURL(text string) string {
	if u, err := url.Parse(text); err != nil || u.Host == "" {
		return fmt.Sprintf("%q is not a URL", text)
	}
	return ""
}

func isNoChartURL(chart string) string {
	switch {
	case !isURL(chart):
		return ""
	case isNoURL(chart) != "":
		return isNoURL(chart)
	case isOCI(chart) && strings.LastIndex(chart, "@") > strings.LastIndex(chart, "/"):
		return fmt.Sprintf("%q cannot have a digest; pin the chart's archive with sha256", chart)
	case isOCI(chart) && !ociChart.MatchString(chart):
		return fmt.Sprintf("%q must be like oci://host/path/name or oci://host/path/name:tag", chart)
	case !isOCI(chart) && !httpURL.MatchString(chart):
		return fmt.Sprintf("%q cannot be downloaded; a chart's URL starts with https://, http:// or oci://", chart)
	}
	return ""
}

func isNoVersion(text string) string {
	if _, err := semver.NewConstraint(text); err != nil {
		return fmt.Sprintf("%q must be a version like 2024.1.0, or a range like ^1.2", text)
	}
	return ""
}

func isNoSelector(text string) string {
	selector, err := labels.Parse(text)
	switch {
	case err != nil:
		return fmt.Sprintf("%q must be a label selector like app.kubernetes.io/name=web: %v", text, err)
	case selector.Empty():
		return fmt.Sprintf("%q must be a label selector like app.kubernetes.io/name=web", text)
	}
	return ""
}

func isNoAddress(text string) string {
	if _, err := netip.ParseAddr(text); err != nil && text != "localhost" {
		return fmt.Sprintf("%q is no IP address", text)
	}
	return ""
}

func isShorterThan(least time.Duration) func(text string) string {
	return func(text string) string {
		if d, err := time.ParseDuration(text); err == nil && d < least {
			return fmt.Sprintf("must be at least %s, but is %s", least, text)
		}
		return ""
	}
}
