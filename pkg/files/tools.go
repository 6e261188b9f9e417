package files

import (
	"io/fs"
	"os"
	"path"
	"strings"
)

// ephemeral are names of files that exist only while a program has a file open. Sources: vim's
// memline.c (where .swp is taken it tries .swo, .swn and so on; .swi and .swf are no swap files),
// the manuals of Emacs, nano, Kate and LibreOffice, and what Tilt (EphemeralPathMatcher) and
// watchexec (default ignores) leave out.
var ephemeral = []string{
	".*.sw[j-px]", ".sw[j-px]", // vim, nano
	".#*", "#*#", // Emacs: a lock (a link to nothing), an auto-save
	"*.kate-swp",       // Kate, KWrite
	".~lock.*#", "~$*", // LibreOffice, Microsoft Office
	"*.crswap",             // Chrome, for editors on the web
	"*.vsctmp",             // Visual Studio Code's atomic write
	"*___jb_tmp___",        // JetBrains' safe write
	".goutputstream-*",     // GLib's: gedit and others
	".subl*.tmp",           // Sublime Text's
	"*-go-tmp-umask",       // the go command
	".nfs[0-9a-f]*",        // removed on NFS while it is open
	".fuse_hidden*",        // the same on FUSE
	".syncthing.*.tmp",     // on the way from another machine
	".mutagen-temporary-*", // the same
}

// tooling are names of other files and folders that programs keep beside the user's: backups,
// version control, settings. Sources are the lists above and the .helmignore of helm create.
var tooling = []string{
	"*~",                             // backups of many editors; vim's undo files
	"4913",                           // vim tries to write it; in a build context it may be the user's
	"*___jb_old___", "*___jb_bak___", // JetBrains
	".DS_Store", "._*", // macOS
	".git", ".hg", ".svn", ".bzr", ".jj", ".pijul", "_darcs", ".fossil-settings",
	".idea", ".vscode",
}

// IsEphemeral tells whether a file of this name exists only while a program has a file open: a swap
// file, a lock, an auto-save, the new content before it is renamed. Opening a file is no change.
func IsEphemeral(name string) bool { return matches(ephemeral, name) }

// IsToolFile tells whether a file or folder of this name belongs to an editor or another tool, and
// not to what the user makes.
func IsToolFile(name string) bool { return matches(ephemeral, name) || matches(tooling, name) }

// ToolFiles returns what IsToolFile is true of, as patterns of a .dockerignore.
func ToolFiles() []string {
	var patterns []string
	for _, list := range [][]string{ephemeral, tooling} {
		for _, pattern := range list {
			patterns = append(patterns, "**/"+pattern)
		}
	}
	return patterns
}

// SplitGlob splits an absolute path before its first part with a wildcard (*, ?, [..], ** for any
// number of folders). The name of something that is there, as in "/home/me/web [2]", has none. glob
// is "" if no part has one.
func SplitGlob(pattern string) (folder, glob string) {
	parts := strings.Split(pattern, "/")
	for i, part := range parts {
		if !strings.ContainsAny(part, `*?[`) {
			continue
		}
		if _, err := os.Lstat(strings.Join(parts[:i+1], "/")); err != nil {
			return path.Clean("/" + strings.Join(parts[:i], "/")), strings.Join(parts[i:], "/")
		}
	}
	return pattern, ""
}

// Glob returns the paths that match an absolute pattern, in which ** is *.
func Glob(pattern string) ([]string, error) {
	folder, glob := SplitGlob(pattern)
	if glob == "" {
		if _, err := os.Lstat(pattern); err != nil {
			return nil, nil //nolint:nilerr // nothing is there
		}
		return []string{pattern}, nil
	}
	names, err := fs.Glob(os.DirFS(folder), glob)
	for i, name := range names {
		names[i] = path.Join(folder, name)
	}
	return names, err
}

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if found, _ := path.Match(pattern, name); found { // a test parses them all
			return true
		}
	}
	return false
}
