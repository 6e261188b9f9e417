package tree

// Translation is a file of another format as the tree of a devloop.yaml. Its nodes have their place in that file.
type Translation struct {
	Root      *Node    // nil if it could not be translated, which is reported
	Format    string   // the apiVersion of the file
	Notes     []Note   // what devloop does in another way or not at all
	Files     []string // that were read besides, absolute
	Variables []string // of the environment that were filled in
}
