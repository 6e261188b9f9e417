// Package docs reads the repository's Markdown pages, for the tests that follow all links and run
// or check all code. What the words behind a fence's language mean stands in test/README.md.
package docs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/syntax"
)

// Page is one Markdown file.
type Page struct {
	Path     string   // from the root of the repository
	HasIntro bool     // a paragraph follows the title
	Headings []string // as they are written
	Links    []string // also of pictures
	Blocks   []Code   // fenced or indented
	Spans    []Code   // inline
	Loose    []Code   // rows that are no part of a table: they show as they are written
}

// Code is a piece of code in a page.
type Code struct {
	Page     string
	Line     int
	Language string // of a block: the first word of its fence
	Where    string // the words after that: where it runs
	Text     string
}

func (c Code) String() string { return fmt.Sprintf("%s:%d", c.Page, c.Line) }

// Read parses the pages of the repository at root.
func Read(root string) (pages []Page, err error) {
	err = walk(root, func(name string) error {
		if path.Ext(name) != ".md" {
			return nil
		}
		source, err := os.ReadFile(filepath.Join(root, name))
		pages = append(pages, parse(name, source))
		return err
	})
	return pages, err
}

// walk visits the files of the repository at root by their paths from there. It leaves out what
// programs make, such as the .venv that the README has its readers make, and examples of tests.
func walk(root string, visit func(name string) error) error {
	return fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return visit(name)
		}
		isMade := slices.Contains([]string{"bin", "dist", "packaging/generated"}, name)
		isHidden := strings.HasPrefix(name, ".") && name != "." && name != ".github"
		if isMade || isHidden || entry.Name() == "testdata" {
			return fs.SkipDir
		}
		return nil
	})
}

func parse(name string, source []byte) Page {
	page := Page{Path: name}
	document := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	if title := document.FirstChild(); title != nil && title.Kind() == ast.KindHeading {
		page.HasIntro = title.NextSibling() != nil && title.NextSibling().Kind() == ast.KindParagraph
	}
	at := func(offset int) Code { return Code{Page: name, Line: 1 + bytes.Count(source[:offset], []byte("\n"))} }
	_ = ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		switch node := node.(type) {
		case *ast.Heading:
			page.Headings = append(page.Headings, string(node.Lines().Value(source)))
		case *ast.Link:
			page.Links = append(page.Links, string(node.Destination))
		case *ast.Image:
			page.Links = append(page.Links, string(node.Destination))
		case *ast.FencedCodeBlock, *ast.CodeBlock:
			lines := node.Lines()
			if lines.Len() == 0 {
				return ast.WalkSkipChildren, nil
			}
			block := at(lines.At(0).Start)
			block.Text = string(lines.Value(source))
			if fenced, ok := node.(*ast.FencedCodeBlock); ok && fenced.Info != nil {
				block.Language, block.Where, _ = strings.Cut(string(fenced.Info.Value(source)), " ")
			}
			page.Blocks = append(page.Blocks, block)
		case *ast.Paragraph:
			for i := range node.Lines().Len() {
				line := node.Lines().At(i)
				if row := line.Value(source); bytes.HasPrefix(row, []byte("|")) {
					loose := at(line.Start)
					loose.Text = string(row)
					page.Loose = append(page.Loose, loose)
				}
			}
		case *ast.CodeSpan:
			var span Code
			for child := node.FirstChild(); child != nil; child = child.NextSibling() {
				part, ok := child.(*ast.Text)
				if !ok {
					continue
				}
				if span.Line == 0 {
					span = at(part.Segment.Start)
				}
				span.Text += string(part.Segment.Value(source))
			}
			span.Text = strings.ReplaceAll(span.Text, "\n", " ")
			page.Spans = append(page.Spans, span)
			return ast.WalkSkipChildren, nil
		}
		return ast.WalkContinue, nil
	})
	return page
}

// Blocks returns the blocks of all pages in one of these languages.
func Blocks(pages []Page, languages ...string) (blocks []Code) {
	for _, page := range pages {
		for _, block := range page.Blocks {
			if slices.Contains(languages, block.Language) {
				blocks = append(blocks, block)
			}
		}
	}
	return blocks
}

// Commands returns the simple commands of shell code, each as its words. Variables stay as they are
// written, and a substitution is "...".
func Commands(code string) (commands [][]string, err error) {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(code), "")
	if err != nil {
		return nil, err
	}
	config := &expand.Config{
		Env: expand.FuncEnviron(func(name string) string { return "$" + name }),
		CmdSubst: func(out io.Writer, _ *syntax.CmdSubst) error {
			_, err := io.WriteString(out, "...")
			return err
		},
	}
	syntax.Walk(file, func(node syntax.Node) bool {
		call, ok := node.(*syntax.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		var words []string
		for _, arg := range call.Args {
			word, failed := expand.Literal(config, arg)
			if failed != nil && err == nil {
				err = failed
			}
			words = append(words, word)
		}
		commands = append(commands, words)
		return true
	})
	return commands, err
}
