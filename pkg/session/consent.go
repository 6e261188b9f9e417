package session

// Nothing is written to a cluster unless it is proven to be on this machine (pkg/kube), or the user
// has allowed it: by a flag, in the user's own settings, or by an answer in the terminal. Files of
// a repository allow nothing.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/devloop/devloop/pkg/config"
	"github.com/devloop/devloop/pkg/console"
	"github.com/devloop/devloop/pkg/event"
	"github.com/devloop/devloop/pkg/journal"
	"github.com/devloop/devloop/pkg/kube"
	"github.com/devloop/devloop/pkg/node"
)

// Consent is what the user allows by flags or the environment, and how to ask for more.
type Consent struct {
	Allow     []string // kube contexts
	AllowFrom string   // the flag or the variable that named them

	// Ask shows a question. It returns true if the user types yes.
	Ask func(ctx context.Context, in *os.File, question string) (yes bool, err error)
}

// allow returns why devloop may write to the cluster. If nothing proves that it is the user's own
// and nothing allows it, the user is asked, where there is a terminal.
func (c Consent) allow(ctx context.Context, sink event.Sink, folder string, target kube.Target,
	cluster *kube.Cluster, origin node.Origin) (kube.Grounds, error) {
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return kube.Grounds{}, err
	}
	grounds, err := c.Grounds(ctx, target, cluster, origin, folder)
	var notLocal *kube.NotLocalError
	if !errors.As(err, &notLocal) || !canAsk(os.Stdin, os.Stderr) {
		return grounds, err
	}
	yes, askErr := c.Ask(ctx, os.Stdin, question(notLocal, folder))
	if askErr != nil {
		return kube.Grounds{}, askErr
	}
	if !yes {
		return kube.Grounds{}, err
	}
	given := kube.Permission{Folder: folder, Cluster: cluster.UID, Given: time.Now(),
		Context: target.Context, Server: target.Server}
	permissions, err := permissionsDir()
	if err == nil {
		err = permissions.Remember(given)
	}
	if err != nil { // it was given all the same
		sink.Stage("devloop").Warn("the answer could not be kept, the next devloop asks again", err)
	}
	return answered(given), nil
}

// Grounds is allow without asking the user. If nothing allows the cluster, the error wraps a
// *kube.NotLocalError and says how to allow it.
func (c Consent) Grounds(ctx context.Context, target kube.Target, cluster *kube.Cluster,
	origin node.Origin, folder string) (kube.Grounds, error) {
	served := kube.Grounds{Basis: kube.Basis(origin.Tool), Name: origin.Name}
	grounds, notLocal := kube.ProveOwn(ctx, target, served, cluster.Client.CoreV1().Nodes())
	switch {
	case notLocal == nil:
		return grounds, nil
	case ctx.Err() != nil:
		return kube.Grounds{}, context.Cause(ctx)
	case slices.Contains(c.Allow, target.Context):
		return kube.Grounds{Basis: kube.Flag, Name: c.AllowFrom}, nil
	}
	path, err := config.SettingsPath()
	if err != nil {
		return kube.Grounds{}, err
	}
	settings, err := config.LoadSettings(path)
	if err != nil {
		return kube.Grounds{}, err
	}
	if slices.Contains(settings.AllowContexts, target.Context) {
		return kube.Grounds{Basis: kube.Settings, Name: path}, nil
	}
	permissions, err := permissionsDir()
	if err != nil {
		return kube.Grounds{}, err
	}
	given, err := permissions.Find(folder, cluster.UID)
	if err == nil {
		return answered(given), nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	hint := fmt.Sprintf("if devloop may write to it: --allow-context %s, or allowContexts: [%[1]s] in %s; "+
		"else choose another context: --kube-context", pasted(target.Context), path)
	return kube.Grounds{}, errors.Join(event.WithHint(notLocal, hint), err)
}

// plainName matches the usual names of contexts, those of cloud providers included.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][\w./@:-]*$`)

// pasted quotes a name, if it has to be, so that it can be pasted into a shell and into YAML.
func pasted(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return strconv.Quote(name)
}

func answered(given kube.Permission) kube.Grounds {
	return kube.Grounds{Basis: kube.Answer, Name: given.Given.Local().Format(time.DateOnly)}
}

// permissionsDir returns where the user's answers are kept.
func permissionsDir() (kube.Permissions, error) {
	dir, err := journal.DefaultDir()
	return kube.Permissions(filepath.Join(dir, "allowed")), err
}

// settingsName returns the path of the user's settings, for messages.
func settingsName() string {
	path, err := config.SettingsPath()
	if err != nil {
		return "~/.config/devloop/config.yaml"
	}
	return path
}

// canAsk tells whether a user can see and answer a question.
func canAsk(in, out *os.File) bool {
	return console.IsTerminal(in) && console.IsTerminal(out) && console.InForeground(in)
}

// question says what the user has to know. Text from files and from the cluster is quoted, so that
// it stays on its line.
func question(e *kube.NotLocalError, folder string) string {
	return fmt.Sprintf(`This cluster is not known to be on this machine:
  context  %q
  server   %q
  because  %s
May devloop deploy to it what %q says, and remove that again?
The answer counts for this folder and this cluster. Only "yes" allows it: `,
		e.Target.Context, e.Target.Server, strings.Trim(strconv.Quote(e.Why.Error()), `"`), folder)
}
