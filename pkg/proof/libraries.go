package proof

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

// Libraries are the Python distributions that a place has installed.
type Libraries struct {
	Place    string            `json:"place"`            // the name of an image, or a folder on this machine
	Python   string            `json:"python,omitempty"` // its version
	Versions map[string]string `json:"versions"`         // by normalized name
	Local    bool              `json:"local,omitempty"`  // on this machine: what only it has is no difference

	// Origins are where libraries are from that pip, or a tool like it, did not get from an index.
	Origins map[string]Origin `json:"origins,omitempty"`

	// Packages are the Python packages of an image whose files are synced into containers.
	Packages []Package `json:"packages,omitempty"`
	// Shadowed are those that are also installed, so that Python imports others than the synced files.
	Shadowed []Shadow `json:"shadowed,omitempty"`
}

// Package is a top-level Python package whose files are synced.
type Package struct {
	Name   string `json:"name"`
	Folder string `json:"folder"`           // in the image
	Source string `json:"source,omitempty"` // on this machine, "" if it has another name there
}

// Shadow is an installed package that Python imports in the place of a synced one, unless it starts
// in the folder of that.
type Shadow struct {
	Package string `json:"package"`
	Place   string `json:"place"`
	Path    string `json:"path"`              // where it is installed
	Library string `json:"library,omitempty"` // that installed it, and its version
	Synced  string `json:"synced"`            // the folder of the synced files there
}

// Origin is where a library is from.
type Origin string

const (
	// FromAddress is a folder, an archive or a repository. Its version says little.
	FromAddress Origin = "address"
	// FromOther is another tool: conda, Debian. Indexes for pip may have it under another name.
	FromOther Origin = "other"
)

// listing prints the version of Python, a library a line, and how many there are: what Python would
// import, but not broken installations or what pip is just removing. A third word says where one is
// from (see Origin). Python 2, too, can run it as far as exit code 127. Its arguments are names and
// folders of packages: a line says where Python finds one instead.
const listing = `
import os, re, sys
try:
    from importlib.machinery import PathFinder
    from importlib.metadata import distributions
except ImportError:
    sys.exit(127)
sys.path[:] = [path for path in sys.path if path]
found = {}
for one in distributions():
    try:
        name, version, path = one.metadata["Name"], one.version, str(getattr(one, "_path", ""))
        tool = (one.read_text("INSTALLER") or "").split(" ")[0].strip().lower()
        origin = " address" if one.read_text("direct_url.json") else " other"
    except Exception:
        continue
    if not re.match(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z", name or ""):
        continue
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*\Z", version or ""):
        continue
    if not re.split(r"[/\\]", path)[-1].startswith("~"):
        if origin == " other" and tool in ("pip", "uv", "poetry", "pdm"):
            origin = ""
        found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version + origin)

def library_of(name, init):
    for one in distributions():
        for file in one.files or []:
            if str(file) == name + "/__init__.py" and os.path.samefile(str(one.locate_file(file)), init):
                return "%s==%s" % (one.metadata["Name"], one.version)
    return "-"

lines = ["python %d.%d.%d" % sys.version_info[:3]]
for name, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        spec = PathFinder.find_spec(name)
        init = spec and spec.submodule_search_locations and spec.origin
        if init and os.path.isdir(folder) and not os.path.samefile(os.path.dirname(init), folder):
            lines.append("package %s %s %s" % (name, library_of(name, init), os.path.dirname(init)))
    except Exception:
        pass
lines += ["%s==%s" % pair for pair in sorted(found.items())] + ["libraries %d" % len(found)]
sys.stdout.write("\n".join(lines) + "\n")
`

// ListCommands print what an image has installed. The first one that it can run counts: some images
// have Python under one name only. Python before 3.8 exits with 127, as if there was none.
var ListCommands = [][]string{{"python", "-W", "ignore", "-c", listing}, {"python3", "-W", "ignore", "-c", listing}}

// WithPackages adds the packages that are looked for to such a command.
func WithPackages(command []string, packages []Package) []string {
	command = slices.Clone(command)
	for _, p := range packages {
		command = append(command, p.Name, p.Folder)
	}
	return command
}

// ParseListing reads the output of such a command. It ignores other lines.
func ParseListing(place, output string, packages []Package) (Libraries, error) {
	l := Libraries{Place: place, Versions: map[string]string{}, Packages: packages}
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		if match := pythonLine.FindStringSubmatch(line); match != nil {
			l.Python, l.Versions, l.Origins, l.Shadowed = match[1], map[string]string{}, map[string]Origin{}, nil
			continue
		}
		if match := packageLine.FindStringSubmatch(line); match != nil && l.Python != "" {
			at := slices.IndexFunc(packages, func(p Package) bool { return p.Name == match[1] })
			if at >= 0 {
				l.Shadowed = append(l.Shadowed, Shadow{Package: match[1], Place: place, Path: match[3],
					Library: strings.Replace(strings.Trim(match[2], "-"), "==", " ", 1), Synced: packages[at].Folder})
			}
			continue
		}
		if match := libraryLine.FindStringSubmatch(line); match != nil && l.Python != "" {
			l.Versions[match[1]] = match[2]
			if match[3] != "" {
				l.Origins[match[1]] = Origin(match[3])
			}
			continue
		}
		if match := lastLine.FindStringSubmatch(line); match != nil && l.Python != "" {
			if count, err := strconv.Atoi(match[1]); err != nil || count != len(l.Versions) {
				return Libraries{}, fmt.Errorf("the list of the libraries in %s has %d of %s lines",
					place, len(l.Versions), match[1])
			}
			return l, nil
		}
	}
	return Libraries{}, errors.New("the list of the libraries in " + place + " is incomplete")
}

var (
	pythonLine  = regexp.MustCompile(`^python (\d{1,3}\.\d{1,3}\.\d{1,3})$`)
	libraryLine = regexp.MustCompile(`^([a-z0-9]+(?:-[a-z0-9]+)*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)(?: (address|other))?$`)
	packageLine = regexp.MustCompile(`^package ([A-Za-z_][A-Za-z0-9_]*) (\S+) (/.*)$`)
	lastLine    = regexp.MustCompile(`^libraries (\d{1,6})$`)
)

// HoldsDask reports whether Dask is installed there.
func (l Libraries) HoldsDask() bool {
	return l.Versions["dask"] != "" || l.Versions["distributed"] != ""
}

// critical has to be the same for clients, schedulers and workers to understand each other: Python,
// since functions are sent as its bytecode, what Dask's own check compares
// (distributed/versions.py), and what else they send and unpack.
var critical = []string{"python", "dask", "distributed", "dask-gateway", "dask-expr", "cloudpickle", "msgpack", "toolz",
	"tornado", "numpy", "pandas", "pyarrow", "lz4", "blosc", "click", "pyyaml"}

// tools install libraries, which do not use them.
var tools = []string{"pip", "setuptools", "wheel", "uv", "distribute", "pkg-resources"}

// IsEmpty reports whether nothing is installed there but what installs libraries.
func (l Libraries) IsEmpty() bool {
	for name := range l.Versions {
		if !slices.Contains(tools, name) {
			return false
		}
	}
	return true
}

// Wanted are the libraries that images have and that can be had elsewhere, by an index.
type Wanted struct {
	Python   string            // of the first image
	Versions map[string]string // of the first image that has the library
	ByName   []string          // those that pip got by their names
	Disputed []string          // those of which images have several versions
}

// publicVersion matches the versions that indexes have (PEP 440). Debian has others, such as
// 1.1build1, and pip refuses a whole file of constraints for one of them.
var publicVersion = regexp.MustCompile(`(?i)^v?(\d+!)?\d+(\.\d+)*([-_.]?(a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?` +
	`(-\d+|[-_.]?(post|rev|r)[-_.]?\d*)?([-_.]?dev[-_.]?\d*)?(\+[a-z0-9]+([-_.][a-z0-9]+)*)?$`)

// Want returns what a place has to install in order to have the same libraries as the images.
func Want(images []Libraries) Wanted {
	w := Wanted{Versions: map[string]string{}}
	for _, image := range images {
		w.Python = cmp.Or(w.Python, image.Python)
		for _, name := range slices.Sorted(maps.Keys(image.Versions)) {
			version, origin := image.Versions[name], image.Origins[name]
			first, known := w.Versions[name]
			switch {
			case slices.Contains(tools, name) || origin == FromAddress || !publicVersion.MatchString(version):
			case known && first != version && !slices.Contains(w.Disputed, name):
				w.Disputed = append(w.Disputed, name)
			case !known:
				w.Versions[name] = version
				if origin == "" {
					w.ByName = append(w.ByName, name)
				}
			}
		}
	}
	return w
}

// Constraints are exact requirements of the libraries that are named, sorted.
func (w Wanted) Constraints(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = name + "==" + w.Versions[name]
	}
	slices.Sort(list)
	return list
}

// Compare compares the places. A library differs if its versions do, or if an image has it and
// another place does not. What only this machine has does not count.
func Compare(places []Libraries) event.Comparison {
	c := event.Comparison{Places: make([]string, len(places)), Differences: event.Differences{}}
	pythons := event.Difference{Library: critical[0], Versions: make([]string, len(places))}
	inImages := map[string]bool{}
	for i, place := range places {
		c.Places[i] = place.Place
		pythons.Versions[i] = Minor(place.Python)
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

// String describes it for a person.
func (s Shadow) String() string {
	of := ""
	if s.Library != "" {
		of = " (" + s.Library + ")"
	}
	return fmt.Sprintf("package %s: unless Python in %s starts in %s, it imports the installed %s%s, which is not synced",
		s.Package, s.Place, filepath.Dir(s.Synced), s.Path, of)
}

// Shadowed returns the synced packages of all places that are shadowed there.
func Shadowed(places []Libraries) (list []Shadow) {
	for _, place := range places {
		list = append(list, place.Shadowed...)
	}
	return list
}

func differ(versions []string) bool { return len(slices.Compact(slices.Clone(versions))) > 1 }

// Minor returns the part of Python's version that matters: 3.11 of 3.11.2.
func Minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// byWeight sorts what is critical first, in its order, and then the others by name.
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
