package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/namespace/ondemand"
	"github.com/weirhq/weir/namespace/traffic"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// warms are the jobs of a mirror.
type warms struct {
	jobs      []ondemand.Job // the last one first
	platforms []ocispec.Platform
	fail      error
}

func (w *warms) Start(_ context.Context, images []ondemand.Image, platforms []ocispec.Platform) (ondemand.Job, error) {
	if w.fail != nil {
		return ondemand.Job{}, w.fail
	}
	job := ondemand.Job{ID: fmt.Sprint("job", len(w.jobs)+1), State: ondemand.Waiting, Images: images, Started: time.Now()}
	w.jobs, w.platforms = append([]ondemand.Job{job}, w.jobs...), platforms
	return job, nil
}

func (w *warms) Jobs() []ondemand.Job { return w.jobs }

func (w *warms) Cancel(id string) (ondemand.Job, bool) {
	i := slices.IndexFunc(w.jobs, func(j ondemand.Job) bool { return j.ID == id })
	if i < 0 {
		return ondemand.Job{}, false
	}
	w.jobs[i].State, w.jobs[i].Ended = ondemand.Cancelled, time.Now()
	return w.jobs[i], true
}

func (m *mirror) post(t *testing.T, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, Prefix+path, strings.NewReader(body)))
	return w
}

// An order starts one job for its images, each once.
func TestWarm(t *testing.T) {
	m := newMirror(t)
	w := m.post(t, "warm", `{"images": ["a/app:v1", "a/app:v1", "a/b"], "platforms": ["linux/arm/v7"]}`)
	if w.Code != http.StatusAccepted {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	expectDescribed(t, "/warm", w.Code, w.Body.Bytes())
	if got := fmt.Sprint(m.warms.jobs[0].Images); got != "[a/app:v1 a/b:latest]" || len(m.warms.platforms) != 1 || m.warms.platforms[0].Variant != "v7" {
		t.Errorf("%s, %v", got, m.warms.platforms)
	}
	m.warms.jobs[0].Errors, m.warms.jobs[0].Warm, m.warms.jobs[0].Progress = []string{"x"}, 1, warm.Progress{Done: warm.Amount{Bytes: 7}, Total: warm.Amount{Bytes: 9}}
	w = m.get(t, "jobs")
	expectDescribed(t, "/jobs", w.Code, w.Body.Bytes())
	var list JobsDocument
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Jobs) != 1 {
		t.Fatalf("%v %s", err, w.Body)
	}
	if one := list.Jobs[0]; one.ID != "job1" || one.Image != "a/app:v1" || one.Total != 2 || one.Done != 1 || one.Bytes != 7 || one.TotalBytes != 9 || len(one.Errors) != 1 {
		t.Errorf("%+v", one)
	}
	w = m.do(t, http.MethodDelete, "jobs/job1")
	expectDescribed(t, "/jobs/{id}", w.Code, w.Body.Bytes())
	if !strings.Contains(w.Body.String(), `"state":"cancelled"`) {
		t.Errorf("%s", w.Body)
	}
}

// What no order can be starts nothing.
func TestWarmRefuses(t *testing.T) {
	m := newMirror(t)
	m.hidden = "b/secret"
	many := func(n int, text string) string {
		all, err := json.Marshal(slices.Repeat([]string{text}, n))
		if err != nil {
			t.Fatal(err)
		}
		return string(all)
	}
	for body, want := range map[string]int{
		``: 400, `[]`: 400, `{"images": []}`: 400, `{"images": ["a/app"], "jobs": 2}`: 400, `{"images": ["a/A B"]}`: 400, `{"images": ["a/app"], "platforms": ["linux"]}`: 400,
		`{"images": ` + many(1001, "a/app") + `}`: 400, `{"images": ["a/app"], "platforms": ` + many(21, "linux/amd64") + `}`: 400,
		`{"images": ` + many(900, "a/"+strings.Repeat("x", 300)) + `}`: 400, `{"images": ["a/` + strings.Repeat("x", 600) + `"]}`: 400,
		`{"images": ["none"]}`: 404, `{"images": ["a/app", "b/secret:v1"]}`: 404,
	} {
		w := m.post(t, "warm", body)
		if w.Code != want || len(m.warms.jobs) != 0 {
			t.Errorf("%.60s: %d %.200s", body, w.Code, w.Body)
		}
		expectDescribed(t, "/warm", w.Code, w.Body.Bytes())
	}
	for _, fail := range []error{ondemand.ErrTooMany, ondemand.ErrClosed, errors.New("x")} {
		m.warms.fail = fail
		if w := m.post(t, "warm", `{"images": ["a/app"]}`); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%v: %d %s", fail, w.Code, w.Body)
		}
	}
}

// A client is told of no job that has an image which it may not pull, and cancels none.
func TestJobsAreHidden(t *testing.T) {
	m := newMirror(t)
	image := func(name string) ondemand.Image { return ondemand.Image{Name: name, Reference: oci.ByTag("v1")} }
	m.warms.jobs = []ondemand.Job{{ID: "1", Images: []ondemand.Image{image("a/app"), image("b/secret")}}, {ID: "2", Images: []ondemand.Image{image("a/app")}}}
	m.hidden = "b/secret"
	if w := m.get(t, "jobs"); strings.Contains(w.Body.String(), `"id":"1"`) || !strings.Contains(w.Body.String(), `"id":"2"`) {
		t.Errorf("%s", w.Body)
	}
	for id, want := range map[string]int{"1": 404, "3": 404, "2": 200} {
		if w := m.do(t, http.MethodDelete, "jobs/"+id); w.Code != want {
			t.Errorf("%s: %d %s", id, w.Code, w.Body)
		}
	}
	if m.warms.jobs[0].State == ondemand.Cancelled {
		t.Error("a hidden job was cancelled")
	}
}

// A stream tells of the jobs that have not ended, or lately.
func TestEventsTellOfJobs(t *testing.T) {
	following(t, func(t *testing.T, m *mirror, _ *traffic.Recent) {
		image := []ondemand.Image{{Name: "a/app", Reference: oci.ByTag("v1")}}
		hidden := []ondemand.Image{{Name: "b/secret", Reference: oci.ByTag("v1")}}
		m.hidden = "b/secret"
		m.warms.jobs = []ondemand.Job{{ID: "new", Images: image}, {ID: "old", Images: image, Ended: time.Now().Add(-2 * lately)}, {ID: "other", Images: hidden}}
		answer, ended := m.follow(t)
		time.Sleep(3 * eventPause)
		m.Close()
		<-ended
		for text, want := range map[string]int{"event: jobs\n": 1, `"id":"new"`: 1, `"id":"old"`: 0, `"id":"other"`: 0} {
			if n := strings.Count(answer.Body.String(), text); n != want {
				t.Errorf("%q comes %d times, want %d, in %s", text, n, want, answer.Body)
			}
		}
	})
}
