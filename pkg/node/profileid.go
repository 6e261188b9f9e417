package node

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/devloop/devloop/pkg/files"
)

// ProfileID identifies a minikube profile from its creation to its deletion: after minikube delete
// and minikube start, the profile of that name has another one.
type ProfileID struct {
	Host        string // the machine's name: a home folder may be shared
	Certificate string // hash of the user's certificate, which minikube makes with the profile; "" if unknown
	Folder      string // /home/me/.minikube/profiles/web
}

const (
	profileTool    = "minikube"
	maxCertificate = 64 << 10 // bytes
)

// ProfileID returns the minikube profile that serves the API server's address; ok is false for
// other clusters.
func (c *Cluster) ProfileID() (p ProfileID, ok bool) {
	if c.origin.Tool != profileTool {
		return p, false
	}
	home, err := minikubeHome()
	if err != nil {
		return p, false
	}
	folder, err := filepath.Abs(filepath.Join(home, "profiles", c.origin.Name))
	if err != nil {
		return p, false
	}
	return profileIn(folder)
}

func profileIn(folder string) (p ProfileID, ok bool) {
	host, err := os.Hostname()
	if err != nil {
		return p, false
	}
	p = ProfileID{Host: host, Folder: folder}
	if certificate, err := files.Read(filepath.Join(folder, "client.crt"), maxCertificate); err == nil {
		sum := sha256.Sum256(certificate)
		p.Certificate = hex.EncodeToString(sum[:8])
	}
	return p, true
}

// String returns the profile as ParseProfileID reads it.
func (p ProfileID) String() string {
	return strings.Join([]string{profileTool, p.Host, p.Certificate, p.Folder}, ":")
}

// ParseProfileID reads what String returned; ok is false for anything else.
func ParseProfileID(text string) (p ProfileID, ok bool) {
	parts := strings.SplitN(text, ":", 4)
	if len(parts) != 4 || parts[0] != profileTool || !filepath.IsAbs(parts[3]) {
		return p, false
	}
	return ProfileID{Host: parts[1], Certificate: parts[2], Folder: parts[3]}, true
}

// IsDeleted tells whether minikube has deleted the profile. If the folder above is missing, too, a
// disk may just not be mounted.
func (p ProfileID) IsDeleted() bool {
	if here, ok := profileIn(p.Folder); !ok || here.Host != p.Host {
		return false
	}
	if _, err := os.Stat(filepath.Dir(p.Folder)); err != nil {
		return false
	}
	_, err := os.Lstat(p.Folder)
	return errors.Is(err, fs.ErrNotExist)
}

// IsReplacedBy tells whether now was made in the place of p, which was deleted. The folder alone
// does not tell: a profile may have a cluster in each of two Docker daemons.
func (p ProfileID) IsReplacedBy(now ProfileID) bool {
	return p.Host == now.Host && p.Folder == now.Folder && p.Certificate != "" && now.Certificate != "" &&
		p.Certificate != now.Certificate
}
