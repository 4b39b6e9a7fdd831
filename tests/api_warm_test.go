package tests

import (
	"bufio"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// post sends a document to the API.
func post(t *testing.T, w *harness.Weir, path, body string, headers ...string) harness.Answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+apiPrefix+path, strings.NewReader(body))
	harness.Must(t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	harness.Must(t, err)
	defer resp.Body.Close()
	a := harness.Answer{Status: resp.StatusCode, Header: resp.Header}
	harness.Must(t, json.NewDecoder(resp.Body).Decode(new(any)))
	return a
}

// followJob reads the events of a mirror until its only job has ended, and returns the job.
func followJob(t *testing.T, w *harness.Weir) map[string]any {
	t.Helper()
	var ended map[string]any
	harness.Eventually(t, "a job ends", func() bool { // a stream ends after a minute
		lines := bufio.NewScanner(w.Open(t, apiPrefix+"events").Body)
		lines.Buffer(nil, 1<<20)
		for kind := ""; lines.Scan() && ended == nil; {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			if name == "event" {
				kind = value
			}
			if name != "data" || kind != "jobs" {
				continue
			}
			var document struct{ Jobs []map[string]any }
			harness.Must(t, json.Unmarshal([]byte(value), &document))
			if len(document.Jobs) == 1 && document.Jobs[0]["ended"] != nil {
				ended = document.Jobs[0]
			}
		}
		return ended != nil
	})
	return ended
}

// A mirror that has warmed an image serves it while its registry is away. Warming is no pull.
func TestWarmByAPI(t *testing.T) {
	t.Parallel()
	addr := testutil.FreeAddr(t)
	registry := harness.NewDistribution(t, "registry", addr, filepath.Join(t.TempDir(), "data"), "")
	registry.Start()
	pusher := &harness.Pusher{Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, Base: "http://" + addr}
	amd64, arm64 := harness.NewImage(t, 300*kib, mib), harness.NewImage(t, 200*kib)
	index := pusher.PushIndex(t, "org/app", "v1", map[string]*harness.Image{"amd64": amd64, "arm64": arm64})
	w := harness.StartWeir(t, blockOf("mirror", []string{`tag_ttl = "1h"`}, []string{`url = "http://` + addr + `"`}))

	if a := post(t, w, "warm", `{"images": ["mirror/org/app:v1"]}`, "X-Forwarded-For", "192.0.2.1"); a.Status != http.StatusForbidden {
		t.Errorf("from another machine: %d", a.Status)
	}
	if a := post(t, w, "warm", `{"images": ["mirror/org/app:v1"]}`); a.Status != http.StatusAccepted {
		t.Fatalf("%d", a.Status)
	}
	job := followJob(t, w)
	expectInside(t, job, map[string]string{"state": "done", "total": "1", "done": "1", "failed": "0", "errors": "[]", "image": "mirror/org/app:v1", "by": "127.0.0.1"})
	if job["bytes"] != job["totalBytes"] || job["bytes"].(float64) < 1500*kib {
		t.Errorf("%v", job)
	}
	expectInside(t, tell(t, w, apiPrefix+"jobs"), map[string]string{"jobs.0.state": "done", "jobs.0.kind": "warm"})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "")), map[string]string{"pulls.total": "0", "tags": "1"})
	expectInside(t, tell(t, w, apiPrefix+"requests"), map[string]string{"requests": "[]"})

	registry.Terminate()
	a := w.Get(t, manifestPath("mirror/org/app", "v1"))
	if a.Status != http.StatusOK || string(a.Body) != string(index) || a.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
		t.Errorf("the index: %d %.200s", a.Status, a.Body)
	}
	for _, image := range []*harness.Image{amd64, arm64} {
		if a := w.Get(t, manifestPath("mirror/org/app", image.Digest.String())); a.Status != http.StatusOK || string(a.Body) != string(image.Manifest) {
			t.Errorf("a manifest: %d %.200s", a.Status, a.Body)
		}
		for _, blob := range append([][]byte{image.Config}, image.Layers...) {
			desc := harness.DescriptorOf("", blob)
			w.Pull(t, blobPath("mirror/org/app", desc.Digest)).Whole(t, "a blob", desc.Digest)
		}
	}
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// A client that may change the cache warms what it may pull, and nothing else. It learns of no
// other jobs.
func TestWarmFollowsTheRules(t *testing.T) {
	t.Parallel()
	const alice, bob, wrong = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA==", "Basic Ym9iOndyb25n"
	r := upstreamtest.New(t)
	image := r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, usersOf+blockOf("open", nil, at(r))+blockOf("closed", []string{`allow = ["alice"]`}, at(r))+blockOf("theirs", []string{`authorize = "upstream"`}, at(r)))
	for _, one := range []struct {
		credentials, image string
		want               int
	}{
		{"", "open/org/app:v1", 401}, {wrong, "open/org/app:v1", 401}, {bob, "closed/org/app:v1", 404}, {bob, "theirs/org/app:v1", 404}, {alice, "theirs/org/app:v1", 404},
		{alice, "closed/org/app@" + image.Digest.String(), 202},
	} {
		headers := []string{"Authorization", one.credentials}
		if one.credentials == "" {
			headers = nil
		}
		if a := post(t, w, "warm", `{"images": ["`+one.image+`"]}`, headers...); a.Status != one.want {
			t.Errorf("%s %s: %d, want %d", one.credentials, one.image, a.Status, one.want)
		}
	}
	harness.Eventually(t, "the job is done", func() bool {
		return inside(tell(t, w, apiPrefix+"jobs", "Authorization", alice), "jobs.0.state") == "done"
	})
	jobs := tell(t, w, apiPrefix+"jobs", "Authorization", alice)
	expectInside(t, jobs, map[string]string{"jobs.0.by": "alice"})
	expectInside(t, tell(t, w, apiPrefix+"jobs", "Authorization", bob), map[string]string{"jobs": "[]"})
	if a := w.Do(t, http.MethodDelete, apiPrefix+"jobs/"+inside(jobs, "jobs.0.id"), "Authorization", bob); a.Status != http.StatusNotFound {
		t.Errorf("bob cancels: %d %s", a.Status, a.Body)
	}
}

// A shutdown cancels a job that waits for its registry.
func TestShutdownCancelsJobs(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	layer := []byte("a layer that never comes")
	image := r.AddImage("org/app", "v1", layer)
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Path(harness.DescriptorOf("", layer).Digest.String()), upstreamtest.Hold(gate))
	w := harness.StartWeir(t, block("mirror", r))
	if a := post(t, w, "warm", `{"images": ["mirror/org/app@`+image.Digest.String()+`"]}`); a.Status != http.StatusAccepted {
		t.Fatalf("%d", a.Status)
	}
	arrived(t, gate, 1)
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	w.Logs(t, "a job that warms images ended", "cancelled")
}
