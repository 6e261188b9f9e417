package draft

import (
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// chartValues are images by the paths, a.b.0.c, of the values of a chart that name them.
type chartValues map[string]*image

// imageValue is where the values of a chart name an image.
type imageValue struct {
	path      string   // a.b.0.c
	keys      []string // of the mappings around it, and its own
	reference string   // what stands there, "" for nothing
	registry  string
	// set are the templates to be set, by their paths as helm --set writes them; nil in a list, which
	// helm --set would replace as a whole.
	set map[string]string
	// repository and registryPath are those of these paths that have a part of the name.
	repository, registryPath string
}

// full is the image with its registry.
func (v imageValue) full() string {
	if v.registry != "" {
		return v.registry + "/" + v.reference
	}
	return v.reference
}

// imageValues returns the places in the values of a chart that may name an image.
func imageValues(values map[string]any) []imageValue {
	var w valueWalk
	w.mapping(values, nil, nil, false)
	return w.found
}

type valueWalk struct{ found []imageValue }

var plainKey = regexp.MustCompile(`^[-\w.]+$`) // other characters have a meaning in Helm's paths

// valueAt is the value at a path that is known to name an image, whatever it is called.
func valueAt(values map[string]any, path string) (v imageValue, is bool) {
	at := strings.Split(path, ".")
	last := len(at) - 1
	for _, key := range at[:last] {
		values, _ = values[key].(map[string]any)
	}
	switch value := values[at[last]].(type) {
	case map[string]any:
		return pair(value, at, append(slices.Clone(at), "image"), false)
	case string:
		set := map[string]string{setPath(at): "image"}
		return imageValue{path: path, keys: at, reference: value, repository: setPath(at), set: set}, true
	}
	return v, false
}

// mapping looks at the mapping that is at the path, of which keys are those that are no indexes.
func (w *valueWalk) mapping(m map[string]any, at, keys []string, inList bool) {
	if v, is := pair(m, at, keys, inList); is {
		w.found = append(w.found, v)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !plainKey.MatchString(key) || key == "global" && len(at) > 0 { // which Helm copies to all subcharts
			continue
		}
		at, keys := append(slices.Clone(at), key), append(slices.Clone(keys), key)
		switch value := m[key].(type) {
		case map[string]any:
			w.mapping(value, at, keys, inList)
		case []any:
			for i, item := range value {
				if item, is := item.(map[string]any); is {
					w.mapping(item, append(slices.Clone(at), strconv.Itoa(i)), keys, true)
				}
			}
		case string:
			if v, is := text(m, key, value, at, keys, inList); is {
				w.found = append(w.found, v)
			}
		}
	}
}

// pair reads a mapping that is an image: its repository, or name, and its tag.
func pair(m map[string]any, at, keys []string, inList bool) (v imageValue, is bool) {
	if len(keys) == 0 {
		return v, false
	}
	isImage := strings.HasSuffix(strings.ToLower(keys[len(keys)-1]), "image")
	for _, key := range []string{"tag", "digest", "pullPolicy"} {
		if _, given := m[key]; given && !isImage {
			_, isImage = m["repository"]
		}
	}
	for _, key := range []string{"repository", "repo", "name"} {
		reference, isText := m[key].(string)
		if given, isGiven := m[key]; !isImage || !isText && (!isGiven || given != nil) || !mayBeImage(reference) {
			continue
		}
		v = imageValue{path: strings.Join(at, "."), keys: keys, reference: reference, repository: setPath(at, key)}
		if !inList {
			v.set = map[string]string{v.repository: "repository", setPath(at, "tag"): "tag"}
		}
		if _, isTag := m["tag"]; !isTag && untagged(reference) != reference {
			v.set = only(v.set, v.repository, "image")
		}
		v.registry, _ = m["registry"].(string)
		v.registryPath = setPath(at, "registry")
		for _, other := range []string{"registry", "digest"} { // either would make it another image
			if text, isText := m[other].(string); isText && text != "" && v.set != nil {
				v.set[setPath(at, other)] = ""
			}
		}
		return v, true
	}
	return v, false
}

// text reads text that is an image, or its repository if there is a tag beside it: image,
// workerImage and workerTag, imageRepository and imageTag.
func text(m map[string]any, key, value string, at, keys []string, inList bool) (v imageValue, is bool) {
	stem := imageKey.FindStringSubmatch(key)
	if stem == nil || !mayBeImage(value) {
		return v, false
	}
	v = imageValue{path: strings.Join(at, "."), keys: keys, reference: value, repository: setPath(at)}
	if !inList {
		v.set = map[string]string{v.repository: "image"}
	}
	for _, tag := range []string{key + "Tag", stem[1] + "ImageTag", stem[1] + "Tag", "imageTag", "tag"} {
		if _, isTag := m[tag]; !isTag || (tag == "tag" || tag == "imageTag") && stem[1] != "" || untagged(value) != value {
			continue
		}
		if !inList {
			v.set = map[string]string{v.repository: "repository", setPath(at[:len(at)-1], tag): "tag"}
		}
		return v, true
	}
	return v, stem[2] == "" // a repository without a tag may be that of a chart
}

var imageKey = regexp.MustCompile(`^(.*?)(?:[iI]mage|IMAGE)(Repository|Name|)$`)

// only is set with one path, or nil for nil.
func only(set map[string]string, path, template string) map[string]string {
	if set == nil {
		return nil
	}
	return map[string]string{path: template}
}

// mayBeImage tells whether text may be an image, or none yet.
func mayBeImage(text string) bool {
	return !strings.Contains(text, "://") && !strings.ContainsAny(text, " \t\n{}")
}

// setPath is a path as helm --set writes it.
func setPath(at []string, keys ...string) string {
	var parts []string
	for _, part := range append(slices.Clone(at), keys...) {
		parts = append(parts, strings.ReplaceAll(part, ".", `\.`))
	}
	return strings.Join(parts, ".")
}

// imageFor returns the image that a value asks for, nil for none: the one that chartpress.yaml
// says, or that is called like it; else, which is a guess, the one that is called like the key, or
// the chart's main image.
func (d *draft) imageFor(v imageValue, known chartValues, main *image) (i *image, isGuess bool) {
	if i := known[v.path]; i != nil {
		return i, false
	}
	if v.reference != "" {
		if i := d.imageOf(untagged(v.reference)); i != nil {
			return i, false
		}
	}
	if len(v.keys) == 0 {
		return nil, false
	}
	keys := slices.Clone(v.keys)
	last := len(keys) - 1
	if stem := imageKey.FindStringSubmatch(keys[last]); stem != nil {
		keys[last] = stem[1]
	}
	key := ""
	for _, one := range slices.Backward(keys) {
		if one != "" && !slices.Contains(generic, strings.ToLower(one)) {
			key = one
			break
		}
	}
	if key == "" {
		return main, true
	}
	for _, i := range d.images {
		if !i.stage && normalized(path.Base(i.Name)) == normalized(key) {
			return i, true
		}
	}
	return nil, false
}

// normalized makes networkTools and network-tools the same.
func normalized(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_.", r) {
			return -1
		}
		return r
	}, strings.ToLower(name))
}
