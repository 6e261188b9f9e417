package filediff

import (
	"regexp"
	"slices"
	"strings"

	"github.com/devloop/devloop/pkg/event"
)

const maxRequirements = 5000 // of a file

// requirement is a line of a requirements file: a package, or an option of pip.
type requirement struct {
	key     string // the same for all lines about the package, however its name is written
	name    string // as written
	extras  string // "[complete]"
	version string // as it is shown: "1.2" for ==1.2, else as written; a URL without what may be secret
	meaning string // equal if lines mean the same
	valid   bool   // pip would read it
}

var (
	pipComment = regexp.MustCompile(`(^|\s)#.*`)
	pipHash    = regexp.MustCompile(`\s--hash[=\s]\s*\S+`)
	editable   = regexp.MustCompile(`^(?:-e|--editable)[\s=]+(.+)$`)
	// byName is a package: its name, its extras, and what stands behind them.
	byName    = regexp.MustCompile(`^([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(\[[^\]]*\])?\s*(.*)$`)
	isAddress = regexp.MustCompile(`^(/|\+|://)`) // what stands behind a first word
	versions  = regexp.MustCompile(`^(?:(?:===?|[<>~!]=|[<>])[A-Za-z0-9.*+!_-]+(?:,|$))*$`)
	egg       = regexp.MustCompile(`#(?:.*&)?egg=([A-Za-z0-9._-]+)`)
	// userInURL may have a slash in its password, as no port has.
	userInURL  = regexp.MustCompile(`://(?:[^/\s]*|[^/\s:@]*:\d*[^/\s@\d][^\s@]*)@`)
	user       = regexp.MustCompile(`[^\s=/]+:\S*@`) // without a URL's scheme
	ownOptions = regexp.MustCompile(`\s--[a-z].*`)   // of a package
	urlPath    = regexp.MustCompile(`(://[^/\s]+)/\S+`)
	behindURL  = regexp.MustCompile(`(://[^\s?#]*)[?#]\S*`)
	separators = regexp.MustCompile(`[-_.]+`)
)

// requirementChanges returns the packages that changed between two texts of a requirements file.
// Order, comments and hashes do not count.
func requirementChanges(before, after []byte) []event.LineChange {
	old, now := parseRequirements(before), parseRequirements(after)
	gone := notIn(old, now)
	var changes []event.LineChange
	for _, r := range notIn(now, old) {
		i := slices.IndexFunc(gone, func(g requirement) bool { return g.key == r.key })
		if i < 0 {
			changes = append(changes,
				event.LineChange{Name: short(r.name + r.extras), After: short(r.version), Change: event.Added})
			continue
		}
		changes = append(changes, gone[i].changedTo(r))
		gone = slices.Delete(gone, i, i+1)
	}
	for _, r := range gone {
		changes = append(changes,
			event.LineChange{Name: short(r.name + r.extras), Before: short(r.version), Change: event.Removed})
	}
	return slices.DeleteFunc(changes, func(c event.LineChange) bool { return c.Name == "" }) // nothing printable
}

func (r requirement) changedTo(now requirement) event.LineChange {
	if r.extras == now.extras {
		return changed(short(now.name+now.extras), short(r.version), short(now.version))
	}
	return changed(short(now.name), short(r.extras+" "+r.version), short(now.extras+" "+now.version))
}

// notIn returns those of the list that mean something else than all of the others.
func notIn(list, others []requirement) (rest []requirement) {
	meanings := map[string]bool{}
	for _, r := range others {
		meanings[r.meaning] = true
	}
	for _, r := range list {
		if !meanings[r.meaning] {
			meanings[r.meaning] = true
			rest = append(rest, r)
		}
	}
	return rest
}

// parseRequirements reads a requirements file as pip does. Lines that pip would refuse count, too:
// they are worth a look.
func parseRequirements(text []byte) (list []requirement) {
	plain := strings.ReplaceAll(strings.TrimPrefix(string(text), "\uFEFF"), "\r\n", "\n") + "\n\n"
	var logical strings.Builder
	for line := range strings.Lines(plain) {
		line = strings.TrimSuffix(line, "\n")
		isComment := strings.HasPrefix(strings.TrimSpace(line), "#")
		part, more := strings.CutSuffix(line, `\`)
		if logical.WriteString(" " + part); more && !isComment {
			continue
		}
		whole := pipHash.ReplaceAllString(pipComment.ReplaceAllString(logical.String(), ""), "")
		logical.Reset()
		if whole = strings.Join(strings.Fields(whole), " "); whole != "" && len(list) < maxRequirements {
			list = append(list, parseRequirement(whole))
		}
	}
	return list
}

func parseRequirement(line string) requirement {
	source, prefix := line, ""
	if match := editable.FindStringSubmatch(line); match != nil {
		source, prefix = match[1], "-e "
	} else if strings.HasPrefix(line, "-") {
		shown := urlPath.ReplaceAllString(withoutSecrets(line), "$1/…") // some indexes have a token in the path
		shown = user.ReplaceAllString(shown, "")
		return requirement{key: shown, name: shown, meaning: line, valid: true}
	}
	match := byName.FindStringSubmatch(source)
	if match == nil || prefix != "" || isAddress.MatchString(match[3]) {
		return address(source, prefix)
	}
	r := requirement{key: normalized(match[1]), name: match[1], extras: strings.ReplaceAll(match[2], " ", "")}
	options := ownOptions.FindString(match[3])
	match[3] = strings.TrimSuffix(match[3], options)
	rest, marker, _ := strings.Cut(match[3], ";")
	if url, ok := strings.CutPrefix(match[3], "@"); ok { // a URL may have a semicolon in it
		rest, marker, _ = strings.Cut(strings.TrimSpace(url), " ;")
		r.version, r.valid = withoutSecrets(rest), rest != ""
	} else {
		rest = strings.Trim(strings.ReplaceAll(rest, " ", ""), "()")
		if r.valid = versions.MatchString(rest); r.valid || strings.IndexAny(rest, "=<>!~") == 0 {
			r.version = rest
		}
		if exact, ok := strings.CutPrefix(rest, "=="); ok && !strings.ContainsAny(exact, ",=") {
			r.version = exact
		}
		specifiers := strings.Split(rest, ",")
		slices.Sort(specifiers)
		rest = strings.Join(specifiers, ",")
	}
	marker = strings.TrimSpace(marker)
	if marker != "" {
		r.version = strings.TrimSpace(r.version + "; " + marker)
	}
	r.meaning = strings.Join([]string{r.key, strings.ToLower(r.extras), rest, marker, options}, " ")
	return r
}

// address is a requirement that is a path or a URL, maybe with a name in it.
func address(source, prefix string) requirement {
	shown := withoutSecrets(source)
	if match := egg.FindStringSubmatch(source); match != nil {
		return requirement{key: normalized(match[1]), name: match[1], version: shown, meaning: prefix + source, valid: true}
	}
	return requirement{key: prefix + shown, name: prefix + shown, meaning: prefix + source}
}

// withoutSecrets leaves out where URLs may have a password or a token.
func withoutSecrets(text string) string {
	return behindURL.ReplaceAllString(userInURL.ReplaceAllString(text, "://"), "$1")
}

// normalized returns the canonical form of a package's name (PEP 503).
func normalized(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}
