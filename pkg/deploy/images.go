package deploy

// Container images that are built here are set to what was built, whatever tag or digest a chart
// gives them and however it writes them: in what its templates have rendered, hooks included.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// ContainerImage is where an object names an image.
type ContainerImage struct {
	Object string // deployment/web
	Field  string // spec.template.spec.containers[web].image
	Image  string // app:latest
}

// SetImage is an image that was set to what was built.
type SetImage struct {
	ContainerImage        // as it was rendered
	Built          string // app:3fa9…
}

func (s SetImage) String() string {
	return fmt.Sprintf("%s %s: %s instead of %s", s.Object, s.Field, s.Built, s.Image)
}

// imageComment begins a line of a document in which an image was set.
const imageComment = "# devloop: "

// comment is the line that says so in the document, which an untrusted name must not end.
func (s SetImage) comment() string {
	text := strconv.Quote(fmt.Sprintf("%s %s was %s", s.Object, s.Field, s.Image))
	return imageComment + text[1:len(text)-1] + "\n"
}

// Images are what was built: references by the names that objects may call the images by. All
// releases share one, since a name takes microseconds to parse.
type Images struct {
	refs  map[string]string
	built builtImages
}

// NewImages returns the images with these references by their names.
func NewImages(refs map[string]string) Images { return Images{refs, newBuiltImages(refs)} }

// builtImages are references by the normalized repositories that stand for them.
type builtImages map[string]string

func newBuiltImages(images map[string]string) builtImages {
	built := builtImages{}
	for name, ref := range images {
		if repository := repositoryOf(name); repository != "" {
			built[repository] = ref
		}
	}
	return built
}

// repositoryOf returns the repository of an image: docker.io/library/web for web:latest. It returns
// "" for what is no image. A tag or digest may be invalid, such as an empty one: it is not used.
func repositoryOf(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if colon := strings.LastIndex(image, ":"); colon > strings.LastIndex(image, "/") {
		image = image[:colon]
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return named.Name()
}

// documentSeparator is Helm's own, see releaseutil.SplitManifests.
var documentSeparator = regexp.MustCompile(`(?:^|\s*\n)---\s*`)

// set sets the images in the files that templates were rendered to, each at its place in files.
// Documents without such an image stay as they are, byte by byte.
func (b builtImages) set(files map[string]string) (set []SetImage, err error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		text := strings.TrimSpace(files[name]) // as in Helm
		var out strings.Builder
		copied := 0
		change := func(begin, end int) error {
			document, inDocument, err := b.setDocument(text[begin:end])
			if err == nil && len(inDocument) > 0 {
				out.WriteString(text[copied:begin])
				if begin > 0 && text[begin-1] != '\n' { // ---{kind: Pod}
					out.WriteString("\n")
				}
				out.WriteString(strings.TrimSuffix(document, "\n"))
				copied = end
				set = append(set, inDocument...)
			}
			return err
		}
		begin := 0
		for _, separator := range documentSeparator.FindAllStringIndex(text, -1) {
			if err := change(begin, separator[0]); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			begin = separator[1]
		}
		if err := change(begin, len(text)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if copied > 0 {
			out.WriteString(text[copied:])
			files[name] = out.String()
		}
	}
	return set, nil
}

// setDocument sets the images of one document. One that is no YAML stays as it is: Helm says what
// is wrong with it.
func (b builtImages) setDocument(text string) (document string, set []SetImage, err error) {
	if !b.mayBeIn(text) {
		return text, nil, nil
	}
	content, err := decodeDocument(text + "\n") // the line break that a block of text at its end has lost
	if err != nil {
		return text, nil, nil //nolint:nilerr // see above
	}
	comments := ""
	eachImage(content, func(at ContainerImage) string {
		built, found := b[repositoryOf(at.Image)]
		if !found || built == at.Image {
			return at.Image
		}
		set = append(set, SetImage{at, built})
		comments += set[len(set)-1].comment()
		return built
	})
	if len(set) == 0 {
		return text, nil, nil
	}
	now, err := encodeDocument(content)
	if err != nil {
		return text, nil, err
	}
	trimmed, err := decodeDocument(strings.TrimSpace(string(now))) // by Helm, and by the next separator
	if err != nil || !reflect.DeepEqual(trimmed, content) {
		now = append(now, imageComment+"the text above ends with a line break\n"...)
	}
	return comments + string(now), set, nil
}

// mayBeIn tells whether text may name one of the images. Large documents take long to parse.
func (b builtImages) mayBeIn(text string) bool {
	for repository := range b {
		if strings.Contains(text, repository[strings.LastIndex(repository, "/")+1:]) {
			return true
		}
	}
	return false
}

// decodeDocument returns the content of a YAML document. Numbers stay as they are written.
func decodeDocument(text string) (content any, err error) {
	asJSON, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber()
	err = decoder.Decode(&content)
	return content, err
}

// encodeDocument returns a content of decodeDocument as YAML.
func encodeDocument(content any) ([]byte, error) {
	asJSON, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	return yaml.JSONToYAML(notInYAML.ReplaceAllFunc(asJSON, func(character []byte) []byte {
		return fmt.Appendf(nil, `\u%04x`, []rune(string(character))[0])
	}))
}

// notInYAML matches what may stand in JSON as it is, and in YAML has to be escaped.
var notInYAML = regexp.MustCompile(`[\x{7f}-\x{9f}\x{feff}\x{fffe}\x{ffff}]`)

// imagesIn returns the images that the objects of a release name.
func imagesIn(hooks []*release.Hook, manifests ...string) (images []ContainerImage) {
	for _, hook := range hooks {
		manifests = append(manifests, hook.Manifest)
	}
	for _, manifest := range manifests {
		for _, document := range splitManifest(manifest) {
			if !strings.Contains(document, "image") {
				continue
			}
			content, err := decodeDocument(document)
			if err != nil {
				continue // Helm has parsed it before
			}
			eachImage(content, func(at ContainerImage) string {
				images = append(images, at)
				return at.Image
			})
		}
	}
	return images
}

func contentsOf(manifests []releaseutil.Manifest) []string {
	texts := make([]string, len(manifests))
	for i, m := range manifests {
		texts[i] = m.Content
	}
	return texts
}

// eachImage replaces each image that a document's objects name by what change returns.
func eachImage(content any, change func(ContainerImage) string) {
	imageWalk{change: change}.walk(content)
}

// imageWalk is a way through a document.
type imageWalk struct {
	change func(ContainerImage) string
	object string   // the innermost object
	custom bool     // its kind is not Kubernetes' own
	path   []string // in it; an item of a list is [its name or index]
}

func (w imageWalk) walk(value any) {
	switch value := value.(type) {
	case map[string]any:
		w.walkMapping(value)
	case []any:
		for i, item := range value {
			w.below("[" + itemName(item, i) + "]").walk(item)
		}
	}
}

func (w imageWalk) walkMapping(mapping map[string]any) {
	apiVersion, _ := mapping["apiVersion"].(string)
	if kind, _ := mapping["kind"].(string); kind != "" && apiVersion != "" {
		of := schema.FromAPIVersionAndKind(apiVersion, kind)
		if withoutImages[of.GroupKind()] {
			return
		}
		metadata, _ := mapping["metadata"].(map[string]any)
		name, _ := metadata["name"].(string)
		if name == "" {
			name, _ = metadata["generateName"].(string)
		}
		w.object, w.custom, w.path = strings.ToLower(kind)+"/"+name, !scheme.Scheme.Recognizes(of), nil
	}
	for _, key := range slices.Sorted(maps.Keys(mapping)) {
		image, isText := mapping[key].(string)
		switch {
		case !isText:
			w.below(key).walk(mapping[key])
		case w.isImage(key):
			mapping[key] = w.change(ContainerImage{w.object, w.below(key).field(), image})
		}
	}
}

// withoutImages are kinds that hold text of any meaning.
var withoutImages = map[schema.GroupKind]bool{
	{Kind: "ConfigMap"}: true, {Kind: "Secret"}: true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true,
}

// notImages are mappings in which a key called image has another meaning.
var notImages = []string{"labels", "matchLabels", "selector", "nodeSelector", "annotations", "rbd"}

// isImage tells whether the text at a key is that of a container's image. In resources of unknown
// kinds, such as an Argo Workflow, each image counts as one.
func (w imageWalk) isImage(key string) bool {
	switch {
	case key == "reference": // of an image volume
		return w.parent(0) == "image" && w.parent(2) == "volumes"
	case key != "image":
		return false
	case slices.Contains([]string{"containers", "initContainers", "ephemeralContainers"}, w.parent(1)):
		return true
	}
	return w.custom && !slices.Contains(notImages, w.parent(0))
}

// parent returns the key of a mapping or list around the place, 0 that of the innermost one.
func (w imageWalk) parent(distance int) string {
	if distance >= len(w.path) {
		return ""
	}
	return w.path[len(w.path)-1-distance]
}

func (w imageWalk) below(key string) imageWalk {
	w.path = append(slices.Clip(w.path), key)
	return w
}

func (w imageWalk) field() string {
	return strings.ReplaceAll(strings.Join(w.path, "."), ".[", "[")
}

// itemName is what an item of a list is called in a path.
func itemName(item any, index int) string {
	mapping, _ := item.(map[string]any)
	name, _ := mapping["name"].(string)
	return cmp.Or(name, strconv.Itoa(index))
}

// namedImage is a ContainerImage with its normalized repository, "" for what is no image.
type namedImage struct {
	ContainerImage
	repository string
}

// setImages keeps the images that a release names.
func (d *Deployer) setImages(r Release, images []ContainerImage) {
	named := make([]namedImage, len(images))
	for i, image := range images {
		named[i] = namedImage{image, repositoryOf(image.Image)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.images[r.ID()] = named
}

// ImagesOf returns where the objects of a release name an image of one of the repositories: as they
// were last rendered, or else as they are deployed. Before the release is validated, it is not
// known.
func (d *Deployer) ImagesOf(release string, repositories []string) (images []ContainerImage) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.images[release] {
		if one.repository != "" && slices.ContainsFunc(repositories, func(name string) bool {
			return d.normalized(name) == one.repository
		}) {
			images = append(images, one.ContainerImage)
		}
	}
	return images
}

// normalized is repositoryOf for the names of images in devloop.yaml, about which every release is
// asked. The caller holds mu.
func (d *Deployer) normalized(name string) string {
	repository, known := d.repositories[name]
	if !known {
		repository = repositoryOf(name)
		d.repositories[name] = repository
	}
	return repository
}
