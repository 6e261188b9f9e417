package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lint returns what Lint finds, as "line: message → hint".
func lint(t *testing.T, image Image) []string {
	t.Helper()
	findings, err := Lint(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%d: %s → %s", f.Line, f.Message, f.Hint))
	}
	return lines
}

func TestLint(t *testing.T) {
	const (
		cached  = "RUN --mount=type=cache,target=/root/.cache/pip "
		uncache = ": pip install without a cache downloads and compiles everything again → write " + cached + "and "
		uncauv  = ": pip install without a cache downloads and compiles everything again → " +
			"write RUN --mount=type=cache,target=/root/.cache/uv and "
		before = " comes before pip install: any changed file installs everything again → copy just the requirements"
	)
	tests := []struct {
		name       string
		dockerfile string
		want       []string // what each finding begins with
	}{
		// Caches.
		{"pip", "FROM python\nRUN pip install dask", []string{"2" + uncache}},
		{"pip with its cache", "FROM python\n" + cached + "pip install dask", nil},
		{"pip as a module, by version, by path",
			"FROM python\nRUN python3.11 -m pip install a\nRUN pip3.11 install b\nRUN /venv/bin/pip -q install c",
			[]string{"2" + uncache, "3" + uncache, "4" + uncache}},
		{"pip behind other commands",
			"FROM python\nRUN set -eu; true && \\\n  # a comment\n  X=1 pip install a && echo",
			[]string{"2" + uncache}},
		{"not pip", "FROM python\n" +
			"RUN pip --version; pip list; echo pip install a; pip install --no-index --find-links=/w a # pip install c",
			nil},
		{"an exec form", "FROM python\nRUN [\"pip\", \"install\", \"dask\"]", []string{"2" + uncache}},
		{"a heredoc", "FROM python\nRUN <<EOF\nset -e\npip install \\\n  dask\nEOF\n", []string{"2" + uncache}},
		{"a heredoc with its cache", "FROM python\n" + cached + "<<EOF\npip install dask\nEOF\n", nil},
		{"a heredoc for another program", "FROM python\nRUN cat >/install <<EOF\npip install dask\nEOF\n", nil},
		{"another home", "FROM python\nUSER dask\n" +
			"RUN --mount=type=cache,target=/home/dask/.cache/pip,uid=1000 pip install dask", nil},
		{"another kind of mount", "FROM python\nRUN --mount=type=tmpfs,target=/root/.cache/pip pip install dask",
			[]string{"2" + uncache}},
		{"other tools", "FROM debian\nRUN apt-get update && apt-get install -y git || apk add git", nil},
		{"uv", "FROM python\nRUN uv pip install dask && uv pip sync r.txt", []string{"2" + uncauv}},
		{"uv with its cache",
			"FROM python\nRUN --mount=type=cache,target=/root/.cache/uv uv pip install dask && uv run x", nil},
		{"no cache", "FROM python\nRUN pip install --no-cache-dir dask",
			[]string{"2" + uncache + "leave out --no-cache-dir: "}},
		{"no cache in spite of a mount", "FROM python\n" + cached + "pip install --no-cache-dir dask",
			[]string{"2" + uncache}},
		{"no cache for uv", "FROM python\nRUN uv pip install --no-cache dask", []string{"2" + uncauv}},

		// Code before what it needs.
		{"all before requirements", "FROM python\nWORKDIR /app\nCOPY . .\n" + cached +
			"pip install -r requirements.txt", []string{"3: COPY . ." + before}},
		{"requirements alone",
			"FROM python\nWORKDIR /app\nCOPY requirements.txt .\n" + cached +
				"pip install -r requirements.txt\nCOPY . .", nil},
		{"requirements alone, after all",
			"FROM python\nCOPY . /app\nCOPY requirements.txt /tmp\n" + cached + "pip install -qr /tmp/requirements.txt",
			[]string{"2: COPY . /app" + before}},
		{"a folder written otherwise", "FROM python\nCOPY ./ /app/\n" + cached +
			"cd /app && pip install --requirement=requirements.txt", []string{"2: COPY ./ /app/" + before}},
		{"packages by name", "FROM python\nCOPY . .\n" + cached + "pip install dask", nil},
		{"the project itself", "FROM python\nCOPY . .\n" + cached + "pip install -e .", nil},
		{"requirements for uv", "FROM python\nCOPY . .\n" +
			"RUN --mount=type=cache,target=/root/.cache/uv uv pip sync requirements.txt",
			[]string{"2: COPY . ." + before}},
		{"a part of the context",
			"FROM python\nCOPY src /src\nCOPY requirements.txt /\n" + cached + "pip install -r /requirements.txt", nil},
		{"from another stage",
			"FROM python AS a\nCOPY . /\nFROM python\nCOPY --from=a . /\n" + cached +
				"pip install -r /requirements.txt", nil},

		// BuildKit's linter. Base images are not looked at.
		{"a rule", "FROM python as A\nWORKDIR app\nRUN true",
			[]string{"1: StageNameCasing: ", "1: FromAsCasing: ", "2: WorkdirRelativePath: "}},
		{"an address", "FROM python\nMAINTAINER me",
			[]string{"2: MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label → " +
				"https://docs.docker.com/"}},
		{"an ignored rule", "# check=skip=MaintainerDeprecated\nFROM python\nMAINTAINER me", nil},
		{"a variable of the base image", "FROM python\nCOPY . $HERE", nil},
		{"another platform", "FROM --platform=$BUILDPLATFORM python:3.11\nRUN true", nil},
		{"a build that fails", "FROM python\nCOPPY a b",
			[]string{"2: dockerfile parse error on line 2: unknown instruction: COPPY"}},
		{"an empty file", "", []string{"0: the Dockerfile cannot be empty"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := tree{"Dockerfile": test.dockerfile}.write(t)
			got := lint(t, Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir})
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("findings\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestLintTarget(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch AS a\n"}.write(t)
	image := Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir, Target: "nowhere"}
	if got := lint(t, image); len(got) != 1 || !strings.Contains(got[0], `"nowhere"`) {
		t.Errorf("findings %q", got)
	}
	image.Dockerfile = filepath.Join(dir, "none")
	if _, err := Lint(t.Context(), image); err == nil {
		t.Error("no error for a Dockerfile that is not there")
	}
}

// TestLintOurOwn: our Dockerfiles follow the advice.
func TestLintOurOwn(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Dockerfile.worker", "Dockerfile.client"} {
		if got := lint(t, Image{Name: name, Dockerfile: filepath.Join(root, name), Context: root}); len(got) > 0 {
			t.Errorf("%s:\n%s", name, strings.Join(got, "\n"))
		}
	}
}

// TestLintOddities: whatever a Dockerfile says, there is an answer or an error, and no panic. Each
// text is tried with every end cut off.
func TestLintOddities(t *testing.T) {
	dir := tree{"requirements.txt": "dask\n"}.write(t)
	file := filepath.Join(dir, "Dockerfile")
	for _, text := range []string{
		"# syntax=\n# escape=`\nFROM python\nRUN pip `\n install `\n -r",
		"{\"syntax\": \"x\"}",
		"# check=error=true;skip\nARG A\nARG B=${A:?no}\nFROM ${A:-python}\nARG C=$D\n" +
			"RUN --mount=type=cache,target=$C --mount=type=bind pip install -r$C -r",
		"FROM scratch AS a\nFROM a AS a\nCOPY --from=a a a\nCOPY --from=7 b b\nCOPY --from=$X c c\n" +
			"RUN --mount=from=a,target=/x,type=bind x",
		"FROM python\nRUN []\nRUN [\"\"]\nRUN [\"sh\"]\nRUN [\"sh\", \"-c\"]\nRUN [\"sh\", \"-c\", \"\"]\n" +
			"RUN [\"env\", \"A=b\"]\nRUN [\"cd\", \"/\"]",
		"FROM python\nRUN <<A <<B\npip install -r 'x\nA\nnpm ci \"\\\nB\nRUN <<-\"E\" bash\n\tuv sync\n\tE\n" +
			"COPY <<F . /\n$X\nF\n",
		"FROM python\nCOPY [\"a b\", \"/\"]\nCOPY [a /\nCOPY ../.. ..\nCOPY [!] /\nADD git@github.com:a/b.git#c /\n" +
			"ADD / /\nCOPY * .",
		"FROM python\nONBUILD RUN pip install x\nSHELL [\"powershell\"]\nRUN pip install -r \\\n\n # x\n" +
			" requirements.txt ''\\",
		"FROM python\nRUN --mount=type=cache pip install a\nRUN --mount=type=nonsense,target=/ pip install a\n" +
			"RUN --mount=target=${A!} pip install a\nUSER \"\"\nUSER :\nRUN pip install a",
		"FROM python\nRUN \"pip\" 'install' -r $(cat <<< x) `pip install y` >&2 2>/dev/null; ( ( ) { } && || " +
			"! if then; pip; uv pip; go; go mod; python -m; yarn -- ;",
		"\ufeffFROM python\r\nRUN pip \\\r\n install \\\r\n -r requirements.txt\r\n",
	} {
		for end := range len(text) + 1 {
			if err := os.WriteFile(file, []byte(text[:end]), 0o644); err != nil {
				t.Fatal(err)
			}
			_, _ = Lint(t.Context(), Image{Name: "odd", Dockerfile: file, Context: dir})
		}
	}
}

// A base image that a build argument names needs no default.
func TestLintArgInFrom(t *testing.T) {
	dir := tree{"Dockerfile": "ARG BASE\nARG OTHER\nFROM ${BASE} AS one\nFROM $OTHER\nCOPY --from=one /a /\n"}.write(t)
	image := Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir,
		Args: map[string]string{"BASE": "x"}}
	found, err := Lint(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if strings.Contains(f.Message, "BASE") {
			t.Errorf("found %v", f)
		}
	}
	if !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.Message, "OTHER") }) {
		t.Errorf("one without a value is not found: %v", found)
	}
}
