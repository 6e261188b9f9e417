package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/atomicwriter"

	"github.com/devloop/devloop/pkg/files"
)

// permissionSize is the size limit of a permission's file, in bytes.
const permissionSize = 64 << 10

// Permission is the user's answer that a project may be deployed to a cluster. It holds for the
// cluster's UID: for another cluster with the same name or address, the user is asked again.
type Permission struct {
	Folder  string    `json:"folder"`  // of the project, absolute, symlinks resolved
	Cluster string    `json:"cluster"` // UID of its namespace kube-system
	Context string    `json:"context"` // for people who read the file, as is Server
	Server  string    `json:"server"`
	Given   time.Time `json:"given"`
}

// Permissions is the folder of permissions. Each folder and cluster has its own file, so that two
// devloops never write the same one.
type Permissions string

// Find returns the permission for a folder and a cluster, or fs.ErrNotExist if there is none.
func (p Permissions) Find(folder, cluster string) (Permission, error) {
	var found Permission
	path := p.file(folder, cluster)
	content, err := files.Read(path, permissionSize)
	if err == nil {
		err = json.Unmarshal(content, &found)
	}
	if err == nil && (found.Folder != folder || found.Cluster != cluster) {
		err = errors.New("it is about another folder or cluster")
	}
	if err != nil {
		return Permission{}, fmt.Errorf("read the permission %s: %w", path, err)
	}
	return found, nil
}

// Remember writes a permission atomically.
func (p Permissions) Remember(given Permission) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("remember the permission: %w", err)
		}
	}()
	if err := os.MkdirAll(string(p), 0o700); err != nil {
		return err
	}
	content, err := json.MarshalIndent(given, "", "  ")
	if err != nil {
		return err
	}
	return atomicwriter.WriteFile(p.file(given.Folder, given.Cluster), append(content, '\n'), 0o600)
}

func (p Permissions) file(folder, cluster string) string {
	sum := sha256.Sum256([]byte(folder + "\x00" + cluster))
	return filepath.Join(string(p), hex.EncodeToString(sum[:16])+".json")
}
