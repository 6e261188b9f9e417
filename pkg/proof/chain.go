package proof

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/devloop/devloop/pkg/event"
)

// Image is an image of devloop.yaml, and where it is.
type Image struct {
	Name   string   // in devloop.yaml
	Ref    string   // as pods name it
	Names  []string // other repositories by which objects may name it
	Hash   string   // of its inputs, which is its tag; else Ref is an older image that gets their synced files
	Built  []string // IDs of what was built
	Stores []Store
	// Renewed is where the image of the inputs is if Ref is an older one.
	Renewed []Store
	// OnlyBase is true if nothing names it and other images are built from it: a node may remove it.
	OnlyBase bool

	repository string // of Ref, in Chain
}

// Store is where pods get an image from: a node, or a registry.
type Store struct {
	Place event.Place // AtNode, AtRegistry
	Name  string
	IDs   []string // of the image, the likeliest in pods first; none if it is missing
}

// Named is where a release names an image.
type Named struct {
	Name  string // of the image in devloop.yaml
	In    string // namespace/release kind/object
	Image string // the reference
}

// Container is a container that runs.
type Container struct {
	event.ContainerRef
	Node  string
	Image string // as its pod names it
	ID    string // as the runtime reports it, "" before it does
	// Cluster is the name of the Dask cluster that it belongs to, which may be older than the image.
	Cluster event.Name
}

func (c Container) isDask() bool { return c.Cluster != "" }

// Answer is the image that a gateway gives to new Dask clusters.
type Answer struct {
	From  string // the gateway's address
	Image string
	Wants []string // names of the images that its release gets; without any, of those that no release gets
}

// Findings are what was found in the places of the images.
type Findings struct {
	Images     []Image
	Named      []Named
	Containers []Container
	Files      []Files // of containers whose images differ by synced files at most
	Answers    []Answer
}

// Chain returns every link, image by image, from the inputs to what uses it. Two IDs of different
// kinds (the digest of a manifest, that of its configuration) are the same if one place knows the
// image by both.
func Chain(f Findings) event.Links {
	var links event.Links
	f.Images = slices.Clone(f.Images)
	for at := range f.Images {
		f.Images[at].repository = parse(f.Images[at].Ref).repository
	}
	for at, own := range f.byImage() {
		image := f.Images[at]
		links = append(links, image.links(own)...)
		for _, answer := range f.Answers {
			if link, ok := image.answered(answer, f.Images, own.Containers); ok {
				links = append(links, link)
			}
		}
	}
	return links
}

// byImage returns what concerns each image: where releases name it, what runs it by any of its
// names, and the files of these. Whoever looked through everything for each image would compare
// all containers with all images.
func (f Findings) byImage() []Findings {
	parts := make([]Findings, len(f.Images))
	named, running := map[string][]int{}, map[string][]int{} // names, and repositories → images
	for at, image := range f.Images {
		named[image.Name] = append(named[image.Name], at)
		repositories := []string{image.repository}
		for _, name := range image.Names {
			repositories = append(repositories, parse(name).repository)
		}
		slices.Sort(repositories)
		for _, repository := range slices.Compact(repositories) {
			running[repository] = append(running[repository], at)
		}
	}
	for _, n := range f.Named {
		for _, at := range named[n.Name] {
			parts[at].Named = append(parts[at].Named, n)
		}
	}
	for _, files := range f.Files {
		for _, at := range named[files.Image] {
			parts[at].Files = append(parts[at].Files, files)
		}
	}
	for _, c := range f.Containers {
		for _, at := range running[parse(c.Image).repository] {
			parts[at].Containers = append(parts[at].Containers, c)
		}
	}
	return parts
}

func (i Image) links(f Findings) (links event.Links) {
	name := event.Name(i.Name)
	add := func(place event.Place, at, is, want string) {
		links = append(links, event.Link{Image: name, Place: place, Name: event.Name(at), Is: is, Want: want})
	}
	inputs := event.Link{Image: name, Place: event.AtInputs, Is: i.Hash}
	if i.isSynced() {
		inputs.SyncedInto = event.Name(parse(i.Ref).tag)
	}
	links = append(links, inputs)
	if onDisk := i.filesOnDisk(f.Files); onDisk != "" {
		add(event.AtFiles, "", onDisk, "")
	}
	built := i.built()
	if built != "" {
		add(event.AtBuild, "", built, "")
	}
	for _, store := range i.Stores {
		switch {
		case len(store.IDs) == 0 && i.OnlyBase:
		case len(store.IDs) == 0:
			add(store.Place, store.Name, event.NotThere, cmp.Or(built, i.Ref))
		case len(i.Built) > 0 && !overlap(i.Built, store.IDs):
			add(store.Place, store.Name, store.IDs[0], built)
		default:
			add(store.Place, store.Name, store.IDs[0], "")
		}
	}
	for _, n := range f.Named {
		link := event.Link{Image: name, Place: event.AtRelease, Name: event.Name(n.In), Is: n.Image}
		isDuplicate := func(other event.Link) bool { return other.Name == link.Name && other.Is == link.Is }
		if !slices.ContainsFunc(links, isDuplicate) { // several containers of a pod may name it
			links = append(links, link)
		}
	}
	for _, c := range f.Containers {
		links = append(links, i.linksOf(c, f)...)
	}
	return links
}

// linksOf returns what is said of a container: the image that it runs, and the synced files.
func (i Image) linksOf(c Container, f Findings) (links event.Links) {
	at := func(place event.Place, is, want string) event.Link {
		return event.Link{Image: event.Name(i.Name), Place: place, Name: c.FullName(), Is: is, Want: want,
			Container: c.ContainerRef}
	}
	pod := func(is, want string) event.Links { return event.Links{at(event.AtPod, is, want)} }
	files, looked := i.filesOf(c, f.Files)
	expected := idsFor(i.Stores, c.Node)
	switch {
	case sameRepository(c.Image, i.Ref) && slices.Contains(expected, c.ID): // by whatever tag or digest
		links = pod(c.ID, "")
	case same(c.Image, i.Ref) && c.ID != "" && len(expected) > 0:
		links = pod(c.ID, expected[0])
	case same(c.Image, i.Ref):
		links = pod(cmp.Or(c.ID, c.Image), "")
	case looked && (files.right() || i.isOfInputs(c.Image)): // an older image, or the one of the inputs
		links = pod(c.Image, "")
		if expected := idsFor(i.Renewed, c.Node); i.isOfInputs(c.Image) && c.ID != "" && len(expected) > 0 &&
			!slices.Contains(expected, c.ID) {
			links = pod(c.ID, expected[0])
		}
	case !c.isDask() && i.isNamed(c.Image) && (i.isOlder(c.Image) || !i.runs(f.Containers)):
		older := at(event.AtPod, c.Image, i.Ref) // else it only has the same name
		older.Differ, older.More = firstDiffering(files.Differ)
		return event.Links{older}
	default:
		return nil
	}
	isOfInputs := !i.isSynced() || i.isOfInputs(c.Image)
	switch {
	case isOfInputs && (files.Is == "" || files.Refused): // the image has them
	case files.Is != "":
		links = append(links, filesLink(files))
	default:
		links = append(links, at(event.AtFiles, event.Unknown, cmp.Or(i.filesOnDisk(f.Files), i.Hash)))
	}
	return links
}

// isSynced reports whether containers run an older image, into which the synced files were written.
func (i Image) isSynced() bool { return !i.isOfInputs(i.Ref) }

// isOfInputs reports whether a reference is to the image that was made from the inputs.
func (i Image) isOfInputs(ref string) bool {
	return sameRepository(ref, i.Ref) && parse(ref).tag == i.Hash
}

// isNamed reports whether a reference is to the image, by whatever name and tag.
func (i Image) isNamed(ref string) bool {
	return sameRepository(ref, i.Ref) ||
		slices.ContainsFunc(i.Names, func(name string) bool { return sameRepository(ref, name) })
}

// isOlder reports whether a reference is to the image as it was built from other inputs.
func (i Image) isOlder(ref string) bool {
	return sameRepository(ref, i.Ref) && !same(ref, i.Ref) && isHash.MatchString(parse(ref).tag)
}

// isHash matches a tag that devloop has made: build.TagLength digits, seldom more.
var isHash = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// runs reports whether a container runs the image.
func (i Image) runs(containers []Container) bool {
	return slices.ContainsFunc(containers, func(c Container) bool { return same(c.Image, i.Ref) && !c.isDask() })
}

// built returns the ID of what was built, as stores know it if they do.
func (i Image) built() string {
	for _, store := range i.Stores {
		if overlap(i.Built, store.IDs) {
			return store.IDs[0]
		}
	}
	if len(i.Built) == 0 {
		return ""
	}
	return i.Built[len(i.Built)-1]
}

// idsFor returns the IDs of an image where a node gets it from.
func idsFor(stores []Store, node string) []string {
	var all []string
	for _, store := range stores {
		if store.Place == event.AtNode && store.Name == node {
			return store.IDs
		}
		all = append(all, store.IDs...)
	}
	return all
}

// answered returns the link of a gateway, if the answer is about this image.
func (i Image) answered(a Answer, images []Image, containers []Container) (link event.Link, ok bool) {
	link = event.Link{Image: event.Name(i.Name), Place: event.AtGateway, Name: event.Name(a.From), Is: a.Image}
	asked, wanted := parse(a.Image).repository, slices.Contains(a.Wants, i.Name)
	ofOther := slices.ContainsFunc(images, func(other Image) bool {
		return other.Name != i.Name && asked != "" && asked == other.repository &&
			(len(a.Wants) == 0 || slices.Contains(a.Wants, other.Name))
	})
	switch {
	case same(a.Image, i.Ref) && (len(a.Wants) == 0 || wanted):
		return link, true
	case sameRepository(a.Image, i.Ref):
		link.Want = i.Ref
		return link, len(a.Wants) == 0 || wanted
	case ofOther, !strings.ContainsAny(a.Image, ":/@"): // or a word that the gateway itself translates
		return link, false
	}
	// A foreign image. Expected is one that the release gets, or that no release gets, and that the
	// release does not run itself.
	link.Want = i.Ref
	return link, wanted && !i.runs(containers)
}

// Broken returns what is wrong with the chain, nil if it is complete.
func Broken(links event.Links) error {
	var texts []string
	hint := ""
	for _, link := range links {
		if link.Broken() {
			texts = append(texts, describe(link))
			hint = cmp.Or(hint, hintFor(link))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return event.WithHint(errors.New("what runs is not what is on the disk: "+strings.Join(texts, "; ")), hint)
}

// describe describes a broken link.
func describe(l event.Link) string {
	if l.Is == event.NotThere {
		return fmt.Sprintf("%s: %s %s does not have it: %s", l.Image, l.Place, l.Name, l.Want)
	}
	what := "is"
	switch l.Place {
	case event.AtFiles:
		if l.Is == event.Unknown {
			return fmt.Sprintf("%s: what files container %s holds is not known", l.Image, l.Name)
		}
		return fmt.Sprintf("%s: container %s holds other files than the disk: %s", l.Image, l.Name, l.Differing())
	case event.AtPod:
		what = fmt.Sprintf("pod %s runs", l.Name)
		if len(l.Differ) > 0 {
			l.Is += " with other files than the disk (" + l.Differing() + ")"
		}
	case event.AtNode:
		what = fmt.Sprintf("node %s holds", l.Name)
	case event.AtRegistry:
		what = fmt.Sprintf("registry %s holds", l.Name)
	case event.AtGateway:
		what = fmt.Sprintf("the gateway at %s gives new clusters", l.Name)
	}
	return fmt.Sprintf("%s: %s %s, not %s", l.Image, what, l.Is, l.Want)
}

// hintFor returns what a user can do about a broken link.
func hintFor(l event.Link) string {
	switch l.Place {
	case event.AtGateway:
		if older, _ := OlderTags(l); older != "" {
			return "see whether the gateway's ConfigMap names the new image (kubectl get configmap -o yaml): if not, a values " +
				"file names the old one; if so, devloop restarts the gateway, up to three times"
		}
		return "a values file names another image: leave it to gateway.backend.image, set from the configuration, " +
			"and have the cluster options' default be c.KubeClusterConfig.image"
	case event.AtFiles:
		hint := "run again (r), which writes them again"
		if len(l.Differ) > 0 {
			path := differingPath(l.Differ[0])
			hint += fmt.Sprintf("; to look at them: kubectl exec -n %s %s -c %s -- ls -l '%s'", l.Container.Namespace,
				l.Container.Pod, l.Container.Container, strings.ReplaceAll(path, "'", `'\''`))
		}
		return hint
	case event.AtPod:
		return fmt.Sprintf("if what made the pod asks for the right image, let it make another: "+
			"kubectl delete pod -n %s %s; else it was changed by hand, or a program in the cluster names the image by itself",
			l.Container.Namespace, l.Container.Pod)
	}
	if l.Is == event.NotThere {
		return "run again (r), which brings it there"
	}
	return fmt.Sprintf("another image has its tag there: remove %s there, and run again (r)", l.Image)
}

// OlderTags returns, for a gateway that gives new clusters an image of other inputs, that image's
// tag and the right one; "" for any other link.
func OlderTags(l event.Link) (is, want string) {
	if l.Place != event.AtGateway || !l.Broken() || !(Image{Ref: l.Want}).isOlder(l.Is) {
		return "", ""
	}
	return parse(l.Is).tag, parse(l.Want).tag
}

// Old returns the Dask clusters that run an image of devloop.yaml under another tag, the oldest
// first: it was built from other inputs, or by another tool. A digest alone does not tell. Images
// has an entry for each tag that is not old. A cluster is as good as new if all of its containers
// are known to hold the files on the disk, and their image differs by nothing else.
func Old(f Findings, clusters event.DaskClusters) event.DaskClusters {
	old := event.DaskClusters{}
	for _, c := range clusters {
		if parse(c.Image).tag != "" &&
			slices.ContainsFunc(f.Images, func(i Image) bool { return sameRepository(c.Image, i.Ref) }) &&
			!slices.ContainsFunc(f.Images, func(i Image) bool { return same(c.Image, i.Ref) || f.isCurrent(i, c) }) {
			old = append(old, c)
		}
	}
	slices.SortFunc(old, func(a, b event.DaskCluster) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name))
	})
	return old
}

// isCurrent reports whether all containers of a cluster that run the image, by any tag, are known
// to hold the files on the disk.
func (f Findings) isCurrent(i Image, cluster event.DaskCluster) bool {
	found := false
	for _, c := range f.Containers {
		if c.Namespace != cluster.Namespace || c.Cluster != cluster.Name || !sameRepository(c.Image, i.Ref) {
			continue
		}
		if files, looked := i.filesOf(c, f.Files); !looked || !files.right() {
			return false
		}
		found = true
	}
	return found
}

// same reports whether two references have the same repository and tag. A digest does not matter.
func same(a, b string) bool {
	x := parse(a)
	return x.repository != "" && x == parse(b)
}

func sameRepository(a, b string) bool {
	x := parse(a)
	return x.repository != "" && x.repository == parse(b).repository
}

// imageRef is a reference; the zero value stands for what is none.
type imageRef struct {
	repository string
	tag        string // "" for a digest alone
}

func parse(text string) (ref imageRef) {
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return ref
	}
	ref = imageRef{named.Name(), "latest"}
	switch named := named.(type) {
	case reference.Tagged:
		ref.tag = named.Tag()
	case reference.Digested:
		ref.tag = ""
	}
	return ref
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(id string) bool { return slices.Contains(b, id) })
}
