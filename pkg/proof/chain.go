// The chain of an image: hash of the inputs → what was built from them → what the nodes hold → what each pod runs → what a gateway starts. This
// file only compares what others have asked for.
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

// Image is what is known of an image before it is used.
type Image struct {
	Name    string // in devloop.yaml
	Ref     string // as pods name it
	Hash    string // of its inputs, which is its tag
	Built   []string
	Holders []Holder // nodes, or a registry
}

// Holder is a place that pods get an image from.
type Holder struct {
	Place event.Place // AtNode, AtRegistry
	Name  string
	IDs   []string // by which it calls the image, the likeliest in pods first; none if it does not hold it
}

// Container is one that runs.
type Container struct {
	event.ContainerRef
	Node  string
	Image string // as its pod names it
	ID    string // that the runtime tells, "" before it does
	Dask  bool   // it belongs to a Dask cluster, which may be older than the image
}

// Answer is what a gateway says of the image that new Dask clusters get.
type Answer struct {
	From  string
	Image string
	Wants []string // names of the images that its release is given, or, if it is given none, that no release is given
}

// Chain compares, and returns every link: image by image, from the inputs to who uses it. Two IDs of different kinds (a manifest's digest, its
// configuration's) are the same if one place knows the image by both.
func Chain(images []Image, containers []Container, answers []Answer) event.Links {
	var links event.Links
	for _, image := range images {
		links = append(links, image.links(containers)...)
		for _, answer := range answers {
			if link, ok := image.answered(answer, images, containers); ok {
				links = append(links, link)
			}
		}
	}
	return links
}

func (i Image) links(containers []Container) (links event.Links) {
	name := event.Name(i.Name)
	add := func(place event.Place, at, is, want string) {
		links = append(links, event.Link{Image: name, Place: place, Name: event.Name(at), Is: is, Want: want})
	}
	add(event.AtInputs, "", i.Hash, "")
	built := i.built()
	if built != "" {
		add(event.AtBuild, "", built, "")
	}
	for _, h := range i.Holders {
		switch {
		case len(h.IDs) == 0:
			add(h.Place, h.Name, "not there", cmp.Or(built, i.Ref))
		case len(i.Built) > 0 && !overlap(i.Built, h.IDs):
			add(h.Place, h.Name, h.IDs[0], built)
		default:
			add(h.Place, h.Name, h.IDs[0], "")
		}
	}
	for _, c := range containers {
		add := func(is, want string) {
			links = append(links, event.Link{Image: name, Place: event.AtPod, Name: c.FullName(), Is: is, Want: want,
				Container: c.ContainerRef})
		}
		held := i.heldFor(c.Node)
		switch {
		case sameRepository(c.Image, i.Ref) && slices.Contains(held, c.ID): // by whatever tag or digest
			add(c.ID, "")
		case same(c.Image, i.Ref) && c.ID != "" && len(held) > 0:
			add(c.ID, held[0])
		case same(c.Image, i.Ref):
			add(cmp.Or(c.ID, c.Image), "")
		case !c.Dask && sameRepository(c.Image, i.Ref) && (i.before(c.Image) || !i.runs(containers)): // else it is one of the same name, beside ours
			add(c.Image, i.Ref)
		}
	}
	return links
}

// before tells whether a reference is to the image as it was made from other inputs.
func (i Image) before(ref string) bool {
	parsed := parse(ref)
	return parsed != nil && sameRepository(ref, i.Ref) && !same(ref, i.Ref) && len(tagOf(parsed)) == len(i.Hash) && isHash.MatchString(tagOf(parsed))
}

// isHash tells a tag that devloop has made, of the length of one.
var isHash = regexp.MustCompile(`^[0-9a-f]+$`)

// runs tells whether some container runs the image.
func (i Image) runs(containers []Container) bool {
	return slices.ContainsFunc(containers, func(c Container) bool { return same(c.Image, i.Ref) && !c.Dask })
}

// built is the ID of what was built, by the name that holders have for it, if they have.
func (i Image) built() string {
	for _, h := range i.Holders {
		if overlap(i.Built, h.IDs) {
			return h.IDs[0]
		}
	}
	if len(i.Built) == 0 {
		return ""
	}
	return i.Built[len(i.Built)-1]
}

// heldFor are the IDs of the image where a node gets it from.
func (i Image) heldFor(node string) []string {
	var all []string
	for _, h := range i.Holders {
		if h.Place == event.AtNode && h.Name == node {
			return h.IDs
		}
		all = append(all, h.IDs...)
	}
	return all
}

// answered is the link of a gateway, if it is one of this image.
func (i Image) answered(a Answer, images []Image, containers []Container) (link event.Link, ok bool) {
	link = event.Link{Image: event.Name(i.Name), Place: event.AtGateway, Name: event.Name(a.From), Is: a.Image}
	wanted := slices.Contains(a.Wants, i.Name)
	other := slices.ContainsFunc(images, func(other Image) bool { // that is meant, rather than this one
		return other.Name != i.Name && sameRepository(a.Image, other.Ref) && (len(a.Wants) == 0 || slices.Contains(a.Wants, other.Name))
	})
	switch {
	case same(a.Image, i.Ref) && (len(a.Wants) == 0 || wanted):
		return link, true
	case sameRepository(a.Image, i.Ref):
		link.Want = i.Ref
		return link, len(a.Wants) == 0 || wanted
	case other, !strings.ContainsAny(a.Image, ":/@"): // that one's, or a word that the gateway makes an image of by itself
		return link, false
	}
	// Somebody else's image. The one that ought to be there is among those that the release is given, or that no release is given, and is not run
	// by the release itself.
	link.Want = i.Ref
	return link, wanted && !i.runs(containers)
}

// Broken returns what is wrong with the chain, nil if it is whole.
func Broken(links event.Links) error {
	var texts []string
	hint := ""
	for _, link := range links {
		if link.Broken() {
			texts = append(texts, inWords(link))
			hint = cmp.Or(hint, hintFor(link))
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return event.WithHint(errors.New("what runs is not what is on the disk: "+strings.Join(texts, "; ")), hint)
}

// inWords tells a broken link with its two values.
func inWords(l event.Link) string {
	what := "is"
	switch l.Place {
	case event.AtPod:
		what = fmt.Sprintf("pod %s runs", l.Name)
	case event.AtNode:
		what = fmt.Sprintf("node %s holds", l.Name)
	case event.AtRegistry:
		what = fmt.Sprintf("registry %s holds", l.Name)
	case event.AtGateway:
		what = fmt.Sprintf("the gateway at %s gives new clusters", l.Name)
	}
	return fmt.Sprintf("%s: %s %s, not %s", l.Image, what, l.Is, l.Want)
}

// hintFor is what a user can do about a broken link.
func hintFor(l event.Link) string {
	switch l.Place {
	case event.AtGateway:
		return "a values file names another image: leave it to gateway.backend.image, set from devloop.yaml, and have the cluster options' default be c.KubeClusterConfig.image"
	case event.AtPod:
		return fmt.Sprintf("if what made the pod asks for the right image, let it make another: "+
			"kubectl delete pod -n %s %s; else it was changed by hand, or its chart names the image by itself",
			l.Container.Namespace, l.Container.Pod)
	default:
		return fmt.Sprintf("the tag was moved to another image, or removed: remove %s there, and run again (r)", l.Image)
	}
}

// Old returns those Dask clusters that run one of the images as it was made from other inputs. An image may be there more than once, by each of the
// tags that are not old.
func Old(images []Image, clusters event.DaskClusters) event.DaskClusters {
	old := event.DaskClusters{}
	for _, c := range clusters {
		if slices.ContainsFunc(images, func(i Image) bool { return i.before(c.Image) }) &&
			!slices.ContainsFunc(images, func(i Image) bool { return same(c.Image, i.Ref) }) {
			old = append(old, c)
		}
	}
	slices.SortFunc(old, func(a, b event.DaskCluster) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Name, b.Name))
	})
	return old
}

// same tells whether two references are of the same repository and tag. One of them may have a digest, too.
func same(a, b string) bool {
	x, y := parse(a), parse(b)
	return x != nil && y != nil && x.Name() == y.Name() && tagOf(x) == tagOf(y)
}

func sameRepository(a, b string) bool {
	x, y := parse(a), parse(b)
	return x != nil && y != nil && x.Name() == y.Name()
}

// parse returns nil for what is no reference.
func parse(ref string) reference.Named {
	parsed, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil
	}
	return parsed
}

func tagOf(ref reference.Named) string {
	if tagged, ok := ref.(reference.Tagged); ok {
		return tagged.Tag()
	}
	if _, ok := ref.(reference.Digested); ok {
		return ""
	}
	return "latest"
}

func overlap(a, b []string) bool {
	return slices.ContainsFunc(a, func(id string) bool { return slices.Contains(b, id) })
}
