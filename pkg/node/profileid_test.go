package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestProfileID(t *testing.T) {
	home := t.TempDir()
	t.Setenv("MINIKUBE_HOME", home)
	folder := filepath.Join(home, ".minikube", "profiles", "web")
	start := func(certificate string) ProfileID {
		t.Helper()
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "client.crt"), []byte(certificate), 0o600); err != nil {
			t.Fatal(err)
		}
		p, ok := (&Cluster{origin: Origin{"minikube", "web"}}).ProfileID()
		if !ok {
			t.Fatal("it is no profile")
		}
		return p
	}
	first := start("first")
	again, ok := ParseProfileID(first.String())
	if !ok || again != first || first.Folder != folder || first.Certificate == "" {
		t.Fatalf("%+v is read as %+v", first, again)
	}
	if first.IsDeleted() || first.IsReplacedBy(start("first")) {
		t.Error("a profile that is there counts as deleted, or as replaced")
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	if !first.IsDeleted() {
		t.Error("a deleted profile counts as there")
	}
	elsewhere := first
	elsewhere.Host = "another-" + first.Host
	if elsewhere.IsDeleted() {
		t.Error("a profile of another machine counts as deleted")
	}
	second := start("second")
	if !first.IsReplacedBy(second) || first.IsDeleted() || elsewhere.IsReplacedBy(second) {
		t.Error("a profile that was recreated is the old one, or replaces one of another machine")
	}
	unknown := second
	unknown.Certificate = ""
	if first.IsReplacedBy(unknown) || unknown.IsReplacedBy(first) || first.IsReplacedBy(ProfileID{}) {
		t.Error("a profile without a certificate replaces another one")
	}
	if err := os.RemoveAll(filepath.Join(home, ".minikube")); err != nil {
		t.Fatal(err)
	}
	if first.IsDeleted() {
		t.Error("a profile counts as deleted when its disk may be missing")
	}
}

func TestOtherPlacesAreNoProfiles(t *testing.T) {
	if _, ok := (&Cluster{origin: Origin{"kind", "web"}}).ProfileID(); ok {
		t.Error("a cluster of kind is a profile of minikube")
	}
	for _, text := range []string{"", "minikube", "kind:laptop::/web", "minikube:laptop:3f:web"} {
		if p, ok := ParseProfileID(text); ok {
			t.Errorf("%q is %+v", text, p)
		}
	}
}
