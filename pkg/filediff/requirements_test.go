package filediff

import (
	"fmt"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

// text is changes as a line of text.
func text(changes []event.LineChange) string {
	all := make([]string, len(changes))
	for i, c := range changes {
		all[i] = c.String()
	}
	return strings.Join(all, ", ")
}

func TestRequirements(t *testing.T) {
	for _, test := range []struct{ name, before, after, want string }{
		{"added", "dask==2.0\n", "dask==2.0\ntabulate==0.9.0\n", "+ tabulate 0.9.0"},
		{"removed", "dask==2.0\ntabulate==0.9.0", "dask==2.0\n", "- tabulate 0.9.0"},
		{"another version", "dask == 2.0", "dask==2.1", "~ dask 2.0 → 2.1"},
		{"from nothing", "", "a==1\nb\n", "+ a 1, + b"},
		{"to nothing", "a==1\nb\n", "", "- a 1, - b"},
		{"the order of the file, then what is gone", "a==1\nz==1\n", "z==2\nb==1\n", "~ z 1 → 2, + b 1, - a 1"},
		{"moved", "a==1\nb==2\n", "b==2\na==1\n", ""},
		{"twice", "a==1\n", "a==1\na==1\n", ""},
		{"a name written in another way", "Foo_Bar==1\n", "foo-bar==1\n", ""},
		{"a name written in another way, and another version", "Foo_Bar==1\n", "foo.bar==2\n", "~ foo.bar 1 → 2"},
		{"pinned", "pandas\n", "pandas==2.2\n", "~ pandas any → 2.2"},
		{"no longer pinned", "pandas==2.2\n", "pandas\n", "~ pandas 2.2 → any"},
		{"other specifiers", "pandas==2.2\n", "pandas >=2, <3\n", "~ pandas 2.2 → >=2,<3"},
		{"specifiers in another order", "pandas>=2,<3\n", "pandas <3,>=2\n", ""},
		{"in brackets", "pandas (>=2)\n", "pandas>=2\n", ""},
		{"arbitrary equality", "pandas==2\n", "pandas===2\n", "~ pandas 2 → ===2"},
		{"a prefix", "pandas==2.*\n", "pandas==2.1.*\n", "~ pandas 2.* → 2.1.*"},
		{"compatible", "pandas~=2.1\n", "pandas~=2.2\n", "~ pandas ~=2.1 → ~=2.2"},
		{"with extras", "", "dask[complete, diagnostics]==2\n", "+ dask[complete,diagnostics] 2"},
		{"other extras", "dask==2\n", "dask[complete]==2\n", "~ dask 2 → [complete] 2"},
		{"another version with extras", "dask[complete]==2\n", "dask[complete]==3\n", "~ dask[complete] 2 → 3"},
		{"a marker", "a==1\n", "a==1 ; python_version < '3.9'\n", "~ a 1 → 1; python_version < '3.9'"},
		{"one of two markers", "a==1; os_name=='nt'\na==2; os_name=='posix'\n",
			"a==1; os_name=='nt'\na==3; os_name=='posix'\n", "~ a 2; os_name=='posix' → 3; os_name=='posix'"},
		{"one more marker", "a==1\n", "a==1\na==2; os_name=='nt'\n", "+ a 2; os_name=='nt'"},
		{"comments", "# a\na==1 # old\n", "a==1 # new\n\n# b\n", ""},
		{"no comment", "a @ https://host.example/a.whl#sha256=1\n", "a @ https://host.example/b.whl\n",
			"~ a https://host.example/a.whl → https://host.example/b.whl"},
		{"hashes", "a==1 --hash=sha256:1 \\\n  --hash=sha256:2\n", "a==1 \\\n --hash sha256:3\n", ""},
		{"continued", "a \\\n ==1\n", "a \\\r\n ==2\r\n", "~ a 1 → 2"},
		{"continued at the end", "", "a==1 \\", "+ a 1"},
		{"a comment is not continued", "# a \\\nb==1\n", "# a \\\nb==2\n", "~ b 1 → 2"},
		{"a byte order mark", "a==1\n", "\uFEFFa==1\r\n", ""},
		{"included", "", "-r other.txt\n-c  constraints.txt", "+ -r other.txt, + -c constraints.txt"},
		{"an index", "-i https://a.example/simple", "-i https://b.example/simple",
			"+ -i https://b.example/…, - -i https://a.example/…"},
		{"an index with a password", "", "--index-url https://user:hunter2@index.example/simple?token=hunter2",
			"+ --index-url https://index.example/…"},
		{"an index with a token", "", "--extra-index-url=https://index.example/hunter2/team/simple/",
			"+ --extra-index-url=https://index.example/…"},
		{"a proxy with a password", "", "--proxy user:hunter2@proxy.example:3128", "+ --proxy proxy.example:3128"},
		{"an index without a scheme", "", "--index-url=user:hunter2@index.example/simple",
			"+ --index-url=index.example/simple"},
		{"a password with a slash", "", "a @ https://user:hunt/er2@host.example/a.whl", "+ a https://host.example/a.whl"},
		{"a port", "", "a @ git+https://host.example:8080/a@v1", "+ a git+https://host.example:8080/a@v1"},
		{"options of a package", "a==1", "a==2 --config-settings token=hunter2 --global-option=x", "~ a 1 → 2"},
		{"other options of a package", "a==1 --global-option=x", "a==1 --global-option=y", "~ a"},
		{"another password", "-i https://u:a@index.example/", "-i https://u:b@index.example/", "~ -i https://index.example/"},
		{"a URL with a password", "a==1", "a @ https://user:hunt@er2@host.example/a.whl ; os_name=='nt'",
			"~ a 1 → https://host.example/a.whl; os_name=='nt'"},
		{"another token", "a@git+https://t1@host.example/a@v1", "a@git+https://t2@host.example/a@v1", "~ a"},
		{"another branch", "a @ git+https://t@host.example/a@v1", "a @ git+https://t@host.example/a@v2",
			"~ a git+https://host.example/a@v1 → git+https://host.example/a@v2"},
		{"a URL alone", "", "https://t@host.example/a.whl?sig=x", "+ https://host.example/a.whl"},
		{"a URL with a name", "a==1", "git+https://t@host.example/a@v1#egg=a", "~ a 1 → git+https://host.example/a@v1"},
		{"editable", "-e .", "-e ./lib\n-e git+https://t@host.example/B@v1#subdirectory=x&egg=B",
			"+ -e ./lib, + B git+https://host.example/B@v1, - -e ."},
		{"editable no longer", "-e ./lib", "./lib", "+ ./lib, - -e ./lib"},
		{"a folder", "", "libs/a\n", "+ libs/a"},
		{"what pip refuses", "", "tabulate=0.9.0\npassword: hunter2\n", "+ tabulate =0.9.0, + password"},
		{"nothing of that", "a==1\n", "a==1\n", ""},
		{"what a terminal obeys", "", "a==1\x1b[2J\u202e\n", `+ a 1\u202e`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := text(requirementChanges([]byte(test.before), []byte(test.after))); got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
}

func TestVersionsAreShort(t *testing.T) {
	changes := requirementChanges(nil, []byte("a=="+strings.Repeat("1", 1000)))
	if got := len([]rune(changes[0].After)); got != shownText {
		t.Errorf("%d characters", got)
	}
}

func TestLargeRequirementsTakeNoTime(t *testing.T) {
	for _, line := range []string{"a\n", "\\\n", "a==1 --hash=sha256:1 \\\n", "-e ://@", "a@ "} {
		requirementChanges(nil, []byte(strings.Repeat(line, maxFile/len(line))))
	}
	var many strings.Builder
	for i := range 50_000 {
		fmt.Fprintln(&many, "p", i)
	}
	requirementChanges([]byte(many.String()), []byte(strings.ReplaceAll(many.String(), "p", "q")))
}

func FuzzRequirements(f *testing.F) {
	f.Add("a==1\n", "-r b.txt\n-e git+https://u:p@host.example/a#egg=a\nb[c] @ https://x ; d\\\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		if changes := requirementChanges([]byte(before), []byte(before)); len(changes) > 0 {
			t.Errorf("a text differs from itself: %v", changes)
		}
		for _, c := range requirementChanges([]byte(before), []byte(after)) {
			if c.Name == "" || event.Printable(c.String()) != c.String() || len([]rune(c.String())) > 4*shownText {
				t.Errorf("%#v", c)
			}
		}
	})
}
