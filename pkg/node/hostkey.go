package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/atomicwriter"
	"golang.org/x/crypto/ssh"

	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/files"
)

// A machine does not publish its ssh host key, so the first one is trusted, and remembered. A VM of
// minikube makes a new key at each start, and so does a new machine. Each start rewrites the
// machine's config.json, and a new machine also gets a new client key. So another host key is
// trusted only if one of the two has changed since. Otherwise something else answers at the node's
// address.

// knownHost is what is remembered of a node.
type knownHost struct {
	Node      string `json:"node"`
	HostKey   string `json:"hostKey"`   // as in authorized_keys
	ClientKey string `json:"clientKey"` // fingerprint
	Started   string `json:"started"`   // modification time of the machine's config.json, "" without one
}

// hostKeys checks the host key of a node during a handshake.
type hostKeys struct {
	file    string
	start   string // the command that starts the machine
	now     knownHost
	before  knownHost
	trusted ssh.PublicKey // that of before, nil if there is none
}

// openHostKeys reads what is remembered of a node in the folder dir. key is the client's key file.
func openHostKeys(dir, node, start, key string, client ssh.PublicKey) (*hostKeys, error) {
	id := sha256.Sum256([]byte(key)) // distinguishes profiles, also of two MINIKUBE_HOMEs
	h := &hostKeys{file: filepath.Join(dir, node+"-"+hex.EncodeToString(id[:8])+".json"), start: start,
		now: knownHost{Node: node, ClientKey: ssh.FingerprintSHA256(client)}}
	if info, err := os.Stat(filepath.Join(filepath.Dir(key), "config.json")); err == nil {
		h.now.Started = info.ModTime().UTC().Format(time.RFC3339Nano)
	}
	content, err := files.Read(h.file, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &h.before)
	}
	if err == nil {
		h.trusted, _, _, _, err = ssh.ParseAuthorizedKey([]byte(h.before.HostKey))
	}
	if err != nil {
		return nil, event.WithHint(fmt.Errorf("ssh host key of node %s: %s: %w", node, h.file, err), "remove "+h.file)
	}
	return h, nil
}

// algorithms puts those of the trusted key first: a machine has several keys.
func (h *hostKeys) algorithms() []string {
	all := ssh.SupportedAlgorithms().HostKeys
	if h.trusted == nil {
		return all
	}
	first := []string{h.trusted.Type()}
	if h.trusted.Type() == ssh.KeyAlgoRSA {
		first = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return append(first, slices.DeleteFunc(all, func(name string) bool { return slices.Contains(first, name) })...)
}

// check accepts or refuses the key of a machine at address.
func (h *hostKeys) check(address string, key ssh.PublicKey) error {
	h.now.HostKey = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	restarted := h.before.ClientKey != h.now.ClientKey || h.before.Started != h.now.Started
	if h.trusted == nil || restarted || bytes.Equal(h.trusted.Marshal(), key.Marshal()) {
		return nil
	}
	err := fmt.Errorf("what answers at %s has the host key %s, and the node had %s; "+
		"minikube has not started it in between", address, ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(h.trusted))
	return &hostKeyError{event.WithHint(err, fmt.Sprintf("start the node by minikube (%s), which renews its key; "+
		"or, if you know the new key, remove %s", h.start, h.file))}
}

// hostKeyError means that a host key is not the trusted one.
type hostKeyError struct{ error }

func (e *hostKeyError) Unwrap() error { return e.error }

// remember saves the accepted key. It is called after the login, which the node accepted, too.
func (h *hostKeys) remember() error {
	if h.now == h.before {
		return nil
	}
	content, err := json.Marshal(h.now)
	err = errors.Join(err, os.MkdirAll(filepath.Dir(h.file), 0o700))
	if err == nil {
		err = atomicwriter.WriteFile(h.file, append(content, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("remember the ssh host key of node %s: %w", h.now.Node, err)
	}
	return nil
}
