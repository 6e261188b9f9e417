package skaffold

import (
	"fmt"
	"strings"
	"testing"
)

func TestSync(t *testing.T) {
	dir := everything(t)
	for _, c := range []struct{ sync, want string }{
		{"", ""},
		{"{}", "."},
		{"{ auto: true }", ".; INFO sync.auto: all that"},
		{"{ auto: false }", ""},
		{"{ infer: [] }", "."},
		{"{ infer: ['*.rb', './views/**'] }", "*.rb; views/**"},
		{"{ infer: ['src/**/*.{js,{ts,tsx}}'] }", "src/**/*.js; src/**/*.ts; src/**/*.tsx"},
		{"{ infer: ['[!a]*.py'] }", "[^a]*.py"},

		{"{ manual: [{ src: 'src/**/*.js', dest: . }] }", "src/**/*.js to src"},
		{"{ manual: [{ src: 'src/components/*', dest: /app }] }", "src/components/* to /app/src/components"},
		{"{ manual: [{ src: 'content/en/**/*.md', dest: content, strip: content/en/ }] }", "content/en/**/*.md to content"},
		{"{ manual: [{ src: 'a/b/**', dest: /x, strip: a }] }", "a/b/** to /x/b"},
		{"{ manual: [{ src: 'a/bc/**', dest: /x, strip: a/b }] }", "a/bc/** to /x/c"},
		{"{ manual: [{ src: '**/foo*', dest: / }] }", "**/foo* to /"},
		{"{ manual: [{ src: .filebaserc, dest: /etc }] }", ".filebaserc to /etc"},
		{"{ manual: [{ src: a/b.txt, dest: ./x/ }] }", "a/b.txt to x/a"},
		{"{ manual: [{ src: a/b.txt, dest: /x/b.txt, strip: a/b.txt }] }", "a/b.txt to /x"},
		{"{ manual: [{ src: ./src/*.py, dest: ., strip: ./src/ }] }", "src/*.py to ."},
		{"{ manual: [{ src: '{a,b/c}/*.py', dest: /x }] }", "a/*.py to /x/a; b/c/*.py to /x/b/c"},
		{"{ manual: [{ src: 'a/*/b/**', dest: /x, strip: 'a/*/' }] }", "a/*/b/** to /x/a"},
		{"{ manual: [{ src: 'a/x*.py', dest: /x, strip: a/x }, { src: b/*, dest: . }] }",
			`b/* to b; WARN sync.manual[0]: the image is built again instead: without "a/x", the files have other names`},
		{"{ manual: [{ src: a/b.txt, dest: /x/c.txt, strip: a/b.txt }] }", "WARN sync.manual[0]: the image"},
		{"{ manual: [{ src: a/*, dest: ../x }] }", `WARN sync.manual[0]: the image is built again instead: "../x" is not`},
		{"{ manual: [{ src: ../a/*, dest: x }, { src: /b, dest: x }, { src: 'c[', dest: x }] }",
			`WARN sync.manual[0].src: the image is built again instead: "../a/*" matches nothing; ` +
				`WARN sync.manual[1].src: the image is built again instead: "/b" matches; ` +
				`WARN sync.manual[2].src: the image is built again instead: "c[" is no pattern`},
		{"{ infer: ['" + strings.Repeat("{a,b}", 9) + "'] }", "WARN sync.infer[0]: the image is built again instead: the"},
		{"{ manual: [{ src: 'a/*', dest: x, strip: b }] }", `ERROR sync.manual[0].strip: "a/*" does not begin with it`},
		{"{ manual: [{ src: a/*, }, { dest: x }] }",
			`ERROR sync.manual[0]: "dest" is missing; ERROR sync.manual[1]: "src" is missing`},
		{"true", "ERROR sync: must be a mapping, but is true"},

		{"{ infer: ['*'], hooks: { after: [{ container: { command: [kill, -HUP, 1] } }] } }", "* then [kill -HUP 1]"},
		{"{ hooks: { before: [{ host: { command: [make] } }], after: [{ host: { command: [a] } }, " +
			"{ container: { command: [b] } }, { container: { command: [c] } }] } }",
			". then [b]; WARN sync.hooks.before: these commands; WARN sync.hooks.after[0].host: this command is not; " +
				"WARN sync.hooks.after[2].container: this command is not"},
		{"{ hooks: { after: [{ container: {} }] } }", `ERROR sync.hooks.after[0].container: "command" is missing`},
	} {
		loaded, err := skaffolded(t, dir, skaffoldHead+"build: { artifacts: [{ image: a, sync: "+c.sync+
			", docker: { dockerfile: Dockerfile.worker } }] }\n"+oneRelease)
		var got []string
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				got = append(got, "ERROR "+strings.SplitN(line, ": ", 2)[1])
			}
		} else {
			for _, rule := range loaded.Images[0].Sync {
				text := rule.From
				if rule.To != "" {
					text += " to " + rule.To
				}
				if rule.Then != nil {
					text += fmt.Sprintf(" then %v", rule.Then)
				}
				got = append(got, text)
			}
			for _, note := range loaded.Notes {
				level := "WARN "
				if note.Harmless {
					level = "INFO "
				}
				if strings.Contains(note.Message, "sync") {
					got = append(got, level+note.Message)
				}
			}
			checkText(t, loaded)
		}
		want := strings.Split(c.want, "; ")
		if c.want == "" {
			want = nil
		}
		isRight := len(got) == len(want)
		for i := range want {
			isRight = isRight && strings.HasPrefix(strings.ReplaceAll(got[i], "build.artifacts[0].", ""), want[i])
		}
		if !isRight {
			t.Errorf("%s: got\n%s\nwant\n%s", c.sync, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
