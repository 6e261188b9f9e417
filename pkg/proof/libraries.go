package proof

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// This file is what the environments have installed, and whether it is the same in all of them.

// Libraries are what a place has installed.
type Libraries struct {
	Place    string            `json:"place"`            // the name of an image, or a folder on this machine
	Python   string            `json:"python,omitempty"` // its version
	Versions map[string]string `json:"versions"`         // by normalized name
	Local    bool              `json:"local,omitempty"`  // on this machine: what it has more is no difference
}

// listing prints what is installed where it runs: the version of Python, a library a line, and how many there are. It takes what Python itself would
// import, and of broken installations and of what pip is just removing nothing. Python 2 understands it well enough to say that it is not meant.
const listing = `
import re, sys
try:
    from importlib.metadata import distributions
except ImportError:
    sys.exit(127)
sys.path[:] = [path for path in sys.path if path]
found = {}
for one in distributions():
    try:
        name, version, path = one.metadata["Name"], one.version, str(getattr(one, "_path", ""))
    except Exception:
        continue
    if not re.match(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", name or "") or not re.match(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*\Z", version or ""):
        continue
    if not re.split(r"[/\\]", path)[-1].startswith("~"):
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
lines = ["python %d.%d.%d" % sys.version_info[:3]] + ["%s==%s" % pair for pair in sorted(found.items())] + ["libraries %d" % len(found)]
sys.stdout.write("\n".join(lines) + "\n")
`

// ListCommands print what an image has installed, the first one that it can run: some have Python under one name only, and some none that is new
// enough (3.8), which ends with 127 as if there was none.
var ListCommands = [][]string{{"python", "-W", "ignore", "-c", listing}, {"python3", "-W", "ignore", "-c", listing}}

// ParseListing reads what such a command printed in an image of that name. Lines that say something else are left out.
func ParseListing(place, output string) (Libraries, error) {
	l := Libraries{Place: place, Versions: map[string]string{}}
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if match := pythonLine.FindStringSubmatch(line); match != nil {
			l.Python, l.Versions = match[1], map[string]string{}
			continue
		}
		if match := libraryLine.FindStringSubmatch(line); match != nil && l.Python != "" {
			l.Versions[match[1]] = match[2]
			continue
		}
		if match := lastLine.FindStringSubmatch(line); match != nil && l.Python != "" {
			if count, err := strconv.Atoi(match[1]); err != nil || count != len(l.Versions) {
				return Libraries{}, fmt.Errorf("the list of the libraries in %s has %d of %s lines", place, len(l.Versions), match[1])
			}
			return l, nil
		}
	}
	return Libraries{}, errors.New("the list of the libraries in " + place + " is not whole")
}

var (
	pythonLine  = regexp.MustCompile(`^python (\d{1,3}\.\d{1,3}\.\d{1,3})$`)
	libraryLine = regexp.MustCompile(`^([a-z0-9]+(?:-[a-z0-9]+)*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)$`)
	lastLine    = regexp.MustCompile(`^libraries (\d{1,6})$`)
)

// HoldsDask tells whether Dask is installed there.
func (l Libraries) HoldsDask() bool {
	return l.Versions["dask"] != "" || l.Versions["distributed"] != ""
}

// critical are what has to be the same for clients, schedulers and workers to understand each other: Python, since functions are sent as its
// bytecode, what Dask's own check looks at (distributed/versions.py), and what else they send and unpack.
var critical = []string{"python", "dask", "distributed", "dask-gateway", "dask-expr", "cloudpickle", "msgpack", "toolz", "tornado", "numpy", "pandas", "pyarrow",
	"lz4", "blosc", "click", "pyyaml"}

// tools are what installs and is not used by what is installed.
var tools = []string{"pip", "setuptools", "wheel", "uv", "distribute", "pkg-resources"}

// Compare compares the places. A difference is another version anywhere, and a library that one image has and another place lacks; what only this
// machine has is none.
func Compare(places []Libraries) event.Comparison {
	c := event.Comparison{Places: make([]string, len(places)), Differences: event.Differences{}}
	pythons := event.Difference{Library: critical[0], Versions: make([]string, len(places))}
	inImages := map[string]bool{}
	for i, place := range places {
		c.Places[i] = place.Place
		pythons.Versions[i] = minor(place.Python)
		if place.Local {
			continue
		}
		for name := range place.Versions {
			if !slices.Contains(tools, name) {
				inImages[name] = true
			}
		}
	}
	c.Libraries = len(inImages)
	if known := slices.DeleteFunc(slices.Clone(pythons.Versions), func(v string) bool { return v == "" }); differ(known) {
		c.Differences = append(c.Differences, pythons)
	}
	for _, name := range slices.SortedFunc(maps.Keys(inImages), byWeight) {
		d := event.Difference{Library: name, Versions: make([]string, len(places))}
		for i, place := range places {
			d.Versions[i] = place.Versions[name]
		}
		if differ(d.Versions) {
			c.Differences = append(c.Differences, d)
		}
	}
	return c
}

func differ(versions []string) bool { return len(slices.Compact(slices.Clone(versions))) > 1 }

// minor is the part of a version of Python that matters: 3.11 of 3.11.2.
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// byWeight puts what is critical first, in its order, and then the others by their names.
func byWeight(a, b string) int {
	weigh := func(name string) int {
		if i := slices.Index(critical, name); i >= 0 {
			return i
		}
		return len(critical)
	}
	if by := weigh(a) - weigh(b); by != 0 {
		return by
	}
	return strings.Compare(a, b)
}
