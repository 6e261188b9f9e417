package event

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// filled returns a payload of the type of the one given, with this text in each of its strings.
func filled(t *testing.T, payload any, text string) any {
	t.Helper()
	v := reflect.New(reflect.TypeOf(payload)).Elem()
	fill(t, v, text)
	return v.Interface()
}

func fill(t *testing.T, v reflect.Value, text string) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(2 * time.Second)) // also as a duration
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), text)
		fill(t, v.Index(1), text)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(noon))
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" { // else the log does not have it
				fill(t, v.Field(i), text)
			}
		}
	default:
		t.Errorf("a payload has a %s, of which neither Secrets nor the log knows", v.Type())
	}
}

// payloads are one of each message, and of the start of those that begin with another one.
func payloads(t *testing.T, text string) []Event {
	t.Helper()
	var all []Event
	for message, word := range vocabulary {
		if word.payload != nil {
			all = append(all, Event{Time: noon, Stage: word.stage, Phase: Succeeded, Message: message,
				Payload: filled(t, word.payload, text), Fields: []any{"free", text}})
		}
		if word.start != nil {
			all = append(all, Event{Time: noon, Stage: word.stage, Phase: Started, Message: message,
				Payload: filled(t, word.start, text)})
		}
	}
	return all
}

func TestPayloadsAreReadAsTheyWereWritten(t *testing.T) {
	for _, e := range payloads(t, "x") {
		if image := reflect.ValueOf(&e.Payload).Elem().Elem().FieldByName("Image"); image.IsValid() &&
			image.Type() == reflect.TypeFor[Image]() {
			changed := reflect.New(image.Type()).Elem()
			changed.Set(reflect.ValueOf(Image{Ref: "x"})) // the log has no more of it
			payload := reflect.New(reflect.TypeOf(e.Payload)).Elem()
			payload.Set(reflect.ValueOf(e.Payload))
			payload.FieldByName("Image").Set(changed)
			e.Payload = payload.Interface()
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var read Event
		if err := json.Unmarshal(text, &read); err != nil || !reflect.DeepEqual(read, e) {
			t.Errorf("%v:\n%+v\nnot\n%+v\nof %s", err, read, e, text)
		}
	}
	for _, line := range []string{ // of another version of devloop
		`{"msg":"pod gone","time":"2026-05-17T12:00:00.007Z","fields":{"pod":1,"namespace":"x"}}`,
		`{"msg":"pod gone","time":"2026-05-17T12:00:00.007Z","fields":{"more":[]}}`,
	} {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Payload != nil || len(e.Fields) == 0 {
			t.Errorf("%v, %+v", err, e)
		}
	}
}

func TestKeysOfTheLog(t *testing.T) {
	for _, test := range []struct {
		payload any
		want    string
	}{
		{LogLine{ContainerRef{PodRef{"web-1", "demo"}, "main"}, Warning, "late"},
			`{"pod":"web-1","namespace":"demo","container":"main","level":"warn","line":"late"}`},
		{Loading{Image: Image{"worker", "1", "worker:1"}}, `{"image":"worker:1"}`},
		{Loaded{Image: Image{Name: "worker"}}, `{"image":"worker","bytes":0}`},
		{RunStart{Why: "change", Files: "a", Since: noon, Settled: 1},
			`{"why":"change","files":"a","since":"2026-05-17T12:00:00.007Z","settled":1}`},
		{RunEnd{Total: 7.4, Stages: Timings{{"build", 5.1}, {"load", 0}}}, `{"total":7.4,"stages":{"build":5.1,"load":0}}`},
		{Forward{Address: Address{Target: "service demo/web", Local: "127.0.0.1:80"}, State: "ready",
			Pods: Names{"a", "b"}, Open: 1},
			`{"target":"service demo/web","local":"127.0.0.1:80","state":"ready","pods":["a","b"],"open":1,"held":0,` +
				`"sent":0,"received":0}`},
		{Config{Project: "demo", Releases: Releases{{Namespace: "demo", Name: "web", Chart: "chart"}}},
			`{"project":"demo","file":"","folder":"","images":null,` +
				`"releases":[{"namespace":"demo","release":"web","chart":"chart"}]}`},
	} {
		text, err := json.Marshal(Event{Payload: test.payload})
		if err != nil || !strings.HasSuffix(string(text), `"fields":`+test.want+"}") {
			t.Errorf("%v: %s\nnot %s", err, text, test.want)
		}
	}
}

// Whatever the payload, its strings pass, and its names stay.
func TestSecretsInPayloads(t *testing.T) {
	var s Secrets
	var got Event
	sink := s.Filter(func(e Event) { got = e })
	for _, known := range []bool{false, true} {
		if known {
			s.Hide("hunter2")
		}
		for _, e := range payloads(t, "hunter2") {
			before := fmt.Sprintf("%#v", e.Payload)
			sink(e)
			if after := fmt.Sprintf("%#v", e.Payload); after != before {
				t.Errorf("%T: the sender's own has become %s", e.Payload, after)
			}
			if !known {
				if !reflect.DeepEqual(got.Payload, e.Payload) {
					t.Errorf("without a secret, it has become %#v", got.Payload)
				}
				continue
			}
			checkClean(t, reflect.ValueOf(got.Payload))
		}
	}
}

func checkClean(t *testing.T, v reflect.Value) {
	t.Helper()
	want := "hunter2"
	switch {
	case v.Type() == reflect.TypeFor[string]():
		want = Hidden
		fallthrough
	case v.Kind() == reflect.String:
		if v.String() != want {
			t.Errorf("%s %q, not %q", v.Type(), v.String(), want)
		}
	case v.Type() == reflect.TypeFor[Names]():
		if !slices.Equal(v.Interface().(Names), Names{"hunter2", "hunter2"}) {
			t.Errorf("names %v", v)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			checkClean(t, v.Index(i))
		}
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("json") != "-" {
				checkClean(t, v.Field(i))
			}
		}
	}
}

func TestSummary(t *testing.T) {
	for _, test := range []struct {
		end  RunEnd
		want string
	}{
		{RunEnd{Total: 7.44, Stages: Timings{{"settle", 0.1}, {"hash", 0.04}, {"build", 5.1}}},
			"7.4 s: settle 0.1, build 5.1"},
		{RunEnd{Total: 0.012}, "0.01 s"},
		{RunEnd{Total: 0.44, Stages: Timings{{"helm", 0.2}}, Releases: Names{"web", "api"}},
			"0.4 s, only web, api: helm 0.2"},
	} {
		if got := test.end.Summary(); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}

func TestStepEndsWithThePayloadOfItsEnd(t *testing.T) {
	image := Image{Name: "worker"}
	for _, test := range []struct {
		more []any
		want Event
	}{
		{nil, Event{Payload: Loading{Image: image}, Fields: []any{"at", 1}}},
		{[]any{"nodes", 2}, Event{Payload: Loading{Image: image}, Fields: []any{"at", 1, "nodes", 2}}},
		{[]any{Loaded{image, 7}, "nodes", 2}, Event{Payload: Loaded{image, 7}, Fields: []any{"at", 1, "nodes", 2}}},
	} {
		var got log
		err := Sink(got.sink).Stage("node").Step(t.Context(), ImageLoaded, func(context.Context) ([]any, error) {
			return test.more, nil
		}, Loading{Image: image}, "at", 1)
		if err != nil || len(got.sent) != 2 || !reflect.DeepEqual(got.sent[0].Payload, Loading{Image: image}) {
			t.Fatalf("%v, %+v", err, got.sent)
		}
		end := Event{Payload: got.sent[1].Payload, Fields: got.sent[1].Fields}
		if !reflect.DeepEqual(end, test.want) {
			t.Errorf("%+v, not %+v", end, test.want)
		}
	}
}

// What JSON leaves out of a payload is no detail of the event either.
func TestDetailsLeaveOut(t *testing.T) {
	e := Event{Payload: Comparison{Places: []string{"a", "b"}, Images: []Image{{Name: "a"}}}}
	if got := e.Details(); len(got) != 4 || got[0] != "places" || got[2] != "libraries" {
		t.Errorf("%v", got)
	}
}
