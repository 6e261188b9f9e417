package test

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// Down to the last installation, the platform's images are built by the same lines: that is how
// they come to share the layers.
func TestDockerfilesShareLines(t *testing.T) {
	shared := map[string]string{}
	for _, name := range []string{"worker", "client"} {
		lines := strings.SplitAfter(dockerfile(t, name), "\n")
		if n := len(lines) - 1; n > 22 {
			t.Errorf("Dockerfile.%s has %d lines: more than a newcomer reads", name, n)
		}
		all := strings.Join(lines[1:], "") // the first one says what the image is for
		last := strings.LastIndex(all, "pip install -r")
		if last < 0 {
			t.Fatalf("Dockerfile.%s installs nothing", name)
		}
		shared[name] = all[:last]
	}
	if shared["worker"] != shared["client"] {
		t.Errorf("the lines differ:\n%s\nand\n%s", shared["worker"], shared["client"])
	}
}

// The first installation gets what stands above the line, and the options below it.
func TestRequirementsThatChangeOften(t *testing.T) {
	script := regexp.MustCompile(`RUN sed -i '(.*)'`).FindStringSubmatch(dockerfile(t, "worker"))
	if script == nil {
		t.Fatal("Dockerfile.worker has no sed")
	}
	const line = "# Changes often: below\n"
	for name, test := range map[string]struct{ requirements, first string }{
		"the line":           {"a==1\nb\n" + line + "c\nd==2\n", "a==1\nb\n"},
		"no line":            {"a==1\n# often\nb", "a==1\n# often\nb"},
		"no line, nothing":   {"", ""},
		"nothing above":      {line + "c\n", ""},
		"nothing below":      {"a\n" + line, "a\n"},
		"continued above":    {"a \\\n  ==1\n" + line + "c\n", "a \\\n  ==1\n"},
		"continued below":    {"a\n" + line + "c \\\n==1\nd\n", "a\n"},
		"hashes below":       {"a\n" + line + "c==1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\nd\n", "a\n"},
		"hashes, unindented": {"a\n" + line + "c==1 \\\n--hash=sha256:0\nd\n", "a\n"},
		"options": {"a\n" + line + "c\n--extra-index-url http://i/\n-c pins\nd\n",
			"a\n--extra-index-url http://i/\n-c pins\n"},
		"a URL": {"a\n" + line + "c @ git+https://h/c.git\nd\n", "a\n"},
		"CRLF":  {"a \\\r\n==1\r\n# Changes often\r\n-f x\r\nd\r\n", "a \\\r\n==1\r\n-f x\r\n"},
	} {
		cmd := exec.CommandContext(t.Context(), "sed", script[1])
		cmd.Stdin = strings.NewReader(test.requirements)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		got, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, stderr.Bytes())
		}
		if string(got) != test.first {
			t.Errorf("%s: the first installation gets %q, not %q", name, got, test.first)
		}
	}
}

func dockerfile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile("../Dockerfile." + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
