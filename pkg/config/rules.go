package config

// What a single value has to look like.

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// rule returns what is wrong with a value, given as text, or "".
type rule func(v value, text string) string

var (
	label      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	repository = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	platform   = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)
	sha256     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	httpPath   = regexp.MustCompile(`^/\S*$`)
	setPath    = regexp.MustCompile(`^(\\.|[^.\\])+(\.(\\.|[^.\\])+)*$`)
	url        = regexp.MustCompile(`^[A-Za-z][-+.A-Za-z0-9]*://`)

	isPlatform = matches(platform, "must be a platform like linux/amd64")
	isSHA256   = matches(sha256, "must be a SHA-256: 64 digits of 0-9 and a-f")
	isSetPath  = matches(setPath, `must be a path like a.b.c (a dot within a key is written \.)`)
	isResource = matches(subdomain, "must be a resource like deployments.apps")
)

func isURL(s string) bool { return url.MatchString(s) }

func matches(re *regexp.Regexp, must string) rule {
	return func(_ value, text string) string {
		if re.MatchString(text) {
			return ""
		}
		return fmt.Sprintf("%q %s", text, must)
	}
}

func isLabel(_ value, text string) string {
	if len(text) <= 63 && label.MatchString(text) {
		return ""
	}
	return fmt.Sprintf("%q must be a DNS label: up to 63 of a-z, 0-9 and -, with a letter or digit at both ends", text)
}

func isReleaseName(_ value, text string) string {
	if len(text) <= 53 && subdomain.MatchString(text) {
		return ""
	}
	return fmt.Sprintf("%q must be a Helm release name: up to 53 of a-z, 0-9, - and ., with a letter or digit at both ends", text)
}

func isRepository(_ value, text string) string {
	if len(text) <= 128 && repository.MatchString(text) {
		return ""
	}
	return fmt.Sprintf("%q must be an image name without a tag: up to 128 of a-z, 0-9 and single . _ - / within", text)
}

// isUnique returns a rule that no value passes twice.
func isUnique() rule {
	lines := map[string]int{}
	return func(v value, text string) string {
		if line, taken := lines[text]; taken {
			return fmt.Sprintf("%s is taken already, on line %d", text, line)
		}
		lines[text] = v.node.Line
		return ""
	}
}

func (d *decoder) isFile(_ value, path string) string {
	return d.exists(path, "file", fs.FileMode.IsRegular)
}

func (d *decoder) isFolder(_ value, path string) string {
	return d.exists(path, "folder", fs.FileMode.IsDir)
}

// isChart passes URLs, folders with a Chart.yaml, and archives.
func (d *decoder) isChart(v value, chart string) string {
	if isURL(chart) {
		return ""
	}
	if info, err := os.Stat(abs(d.dir, chart)); err == nil && info.Mode().IsRegular() {
		return ""
	}
	if message := d.isFolder(v, chart); message != "" {
		return message + " (a chart that is not on this machine starts with https:// or oci://)"
	}
	return d.isFile(v, filepath.Join(chart, "Chart.yaml"))
}

// isOfArchive refuses a checksum for a chart that is a folder: it has no single one.
func (d *decoder) isOfArchive(r *Release) rule {
	return func(value, string) string {
		if info, err := os.Stat(abs(d.dir, r.Chart)); !isURL(r.Chart) && err == nil && info.IsDir() {
			return fmt.Sprintf("a checksum is for a chart's archive, but %s is a folder", r.Chart)
		}
		return ""
	}
}

func (d *decoder) exists(path, kind string, is func(fs.FileMode) bool) string {
	full := abs(d.dir, path)
	info, err := os.Stat(full)
	switch {
	case err == nil && is(info.Mode()):
		return ""
	case err == nil:
		return fmt.Sprintf("%q is not a %s", path, kind)
	case strings.ContainsRune(path, 0):
		return fmt.Sprintf("%q is not a path", path)
	}
	d.missing = append(d.missing, full)
	var beside []string
	entries, _ := os.ReadDir(filepath.Dir(full)) // only for the advice
	for _, e := range entries {
		beside = append(beside, filepath.Join(filepath.Dir(path), e.Name()))
	}
	if os.IsNotExist(err) {
		return fmt.Sprintf("there is no %s %q%s", kind, path, didYouMean(path, beside))
	}
	return fmt.Sprintf("%q cannot be read: %v", path, err)
}
