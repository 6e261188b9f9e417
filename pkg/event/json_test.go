package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var noon = time.Date(2026, 5, 17, 12, 0, 0, 7e6, time.UTC)

// samples are events of every sort, with fields of every type.
func samples() []Event {
	broken := WithHint(errors.New(`no <such> "version"`), "fix it & save")
	all := []Event{
		{Time: noon, Stage: "build", Phase: Noted, Message: "building image"},
		{Time: noon, Run: 3, Stage: "loop", Phase: Failed, Message: RunComplete, Err: broken,
			Took: 1500 * time.Millisecond, Repeated: true},
		{Time: noon, Stage: "node", Phase: Succeeded, Message: ImageLoaded, Took: time.Second, Fields: []any{
			"image", "worker:1", "bytes", int64(12), "nodes", 2, "share", 0.5, "cached", true, "push", 2 * time.Second,
			"at", noon,
			"names", []string{"b", "a"}, "port", uint16(80), "free", uint64(7), "count", int32(3), "address",
			netip.MustParseAddr("127.0.0.1"),
			"nothing", nil, "problems", json.RawMessage(`[{"line":1}]`)}},
	}
	for _, phase := range []Phase{Started, Superseded, Interrupted, Warned, Detailed} {
		all = append(all, Event{Time: noon, Stage: "deploy", Phase: phase, Message: "release applied",
			Err: ErrSuperseded})
	}
	return all
}

// everything is the samples and an event with each payload.
func everything(t *testing.T) []Event { return append(samples(), payloads(t, "x")...) }

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLinesAreAsTheSchemaSays(t *testing.T) {
	s := schema(t)
	for _, e := range everything(t) {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		line, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(line); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	// And the schema knows all keys: a new one has to be sent there.
	var known struct{ Properties map[string]any }
	content, err := os.ReadFile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &known); err != nil {
		t.Fatal(err)
	}
	for _, key := range keysOf(line{}) {
		if known.Properties[key] == nil {
			t.Errorf("the schema does not know %q", key)
		}
		delete(known.Properties, key)
	}
	if len(known.Properties) > 0 {
		t.Errorf("no line has %v", known.Properties)
	}
}

func TestLineKeepsTheEvent(t *testing.T) {
	text, err := json.Marshal(samples()[2])
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-05-17T12:00:00.007Z","level":"info","stage":"node","phase":"succeeded",` +
		`"msg":"image loaded","took":1,"fields":` +
		`{"image":"worker:1","bytes":12,"nodes":2,"share":0.5,"cached":true,"push":2,` +
		`"at":"2026-05-17T12:00:00.007Z","names":["b","a"],"port":80,` +
		`"free":7,"count":3,"address":"127.0.0.1","nothing":null,"problems":[{"line":1}]}}`
	if string(text) != want {
		t.Errorf("%s\nnot\n%s", text, want)
	}
	for _, e := range everything(t) {
		first, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var read Event
		if err := json.Unmarshal(first, &read); err != nil {
			t.Fatal(err)
		}
		second, err := json.Marshal(read)
		if err != nil {
			t.Fatal(err)
		}
		if string(first) != string(second) {
			t.Errorf("written again:\n%s\n%s", first, second)
		}
	}
	for _, wrong := range []string{`{}`, `{"time":"noon"}`, `{"time":"2026-05-17T12:00:00.007Z","fields":[1]}`, `[]`,
		`{"time":"2026-05-17T12:00:00.007Z","hint":"x"}`} {
		var e Event
		err := json.Unmarshal([]byte(wrong), &e)
		if err == nil && e.Err != nil {
			t.Errorf("%s: an error out of nothing: %v", wrong, e.Err)
		}
	}
}

func TestLineKeepsTheProof(t *testing.T) {
	for _, e := range []Event{
		{Message: ChainChecked, Payload: Chain{Links{{Image: "worker", Place: AtNode, Name: "n", Is: "a", Want: "b"}}}},
		{Message: ClustersOutdated, Payload: OutdatedClusters{DaskClusters{{Namespace: "n", Name: "c", Owner: "ada",
			Image: "worker:1", Since: time.Unix(1, 0).UTC(), Workers: 2}}}},
		{Message: LibrariesDiffer, Payload: Comparison{Places: []string{"a", "b"}, Libraries: 2,
			Differences: Differences{{Library: "dask", Versions: []string{"1", ""}}}}},
	} {
		e.Time, e.Stage, e.Phase = time.Unix(1, 0), "proof", Failed
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var read Event
		if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read.Payload, e.Payload) {
			t.Errorf("%v: %v, not %v, of %s", err, read.Payload, e.Payload, text)
		}
		if got := fmt.Sprint(read.Field("links"), "|", read.Field("differences")); e.Message == ChainChecked &&
			got != "worker, node n: a, not b|<nil>" || e.Message == LibrariesDiffer && got != "<nil>|dask 1/missing" {
			t.Error(got)
		}
	}
}

func TestLevels(t *testing.T) {
	for _, test := range []struct {
		event Event
		want  Level
	}{
		{Event{Stage: "build", Phase: Succeeded}, Info},
		{Event{Stage: "build", Phase: Noted}, Info},
		{Event{Stage: "build", Phase: Noted, Repeated: true}, Debug},
		{Event{Stage: "build", Phase: Failed}, Debug},
		{Event{Stage: "build", Phase: Superseded}, Debug},
		{Event{Stage: "loop", Phase: Failed}, Error},
		{Event{Stage: "loop", Phase: Superseded}, Info},
		{Event{Stage: "devloop", Phase: Failed}, Error},
		{Event{Stage: "node", Phase: Warned}, Warning},
		{Event{Stage: "node", Phase: Detailed}, Debug},
	} {
		if got := test.event.Level(); got != test.want {
			t.Errorf("%+v: %s, not %s", test.event, got, test.want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, e := range samples() {
		text, err := json.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text []byte) {
		var e Event
		if json.Unmarshal(text, &e) == nil {
			_, _ = json.Marshal(e) // must not panic
		}
	})
}

// keysOf are the keys of a struct's JSON.
func keysOf(of any) []string {
	var keys []string
	for field := range reflect.TypeOf(of).Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		keys = append(keys, key)
	}
	return keys
}
