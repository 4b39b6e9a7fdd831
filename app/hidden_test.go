package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/clientconfig"
	"github.com/weirhq/weir/pages"
)

// hiddenBlock is a block that only alice may know of, and hiddenTag a tag that only she may pull. The other
// names are as long, and belong to nothing.
const (
	hiddenBlock = "secret-registry.corp.example"
	noBlock     = "public-registry.corp.example"
	hiddenTag   = "secret-release"
	noTag       = "future-release"
)

// hiding is a mirror with a hidden block and a hidden image in the block up, and its upstreams.
type hiding struct {
	*mirror
	manifest, config, layer digest.Digest // of the hidden image
	secrets                 []string      // that only alice may read
	upstream                string        // of the hidden block
	gone                    atomic.Bool   // the upstream does not have the hidden image any more
	asked                   atomic.Int32  // requests for the hidden image
	history                 digest.Digest // of the manifest that the hidden tag named first
}

// newHiding returns a mirror that has cached both images for alice, pinned the hidden one, and warmed it. A
// download of its layer goes on.
func newHiding(t *testing.T) *hiding {
	t.Helper()
	h := &hiding{config: digest.FromString("config"), layer: digest.FromString("layer")}
	manifest := func(size int, config, layer digest.Digest) string {
		return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/json","digest":"%s","size":2},"layers":[{"mediaType":"application/octet-stream","digest":"%s","size":%d}]}`, config, layer, size)
	}
	secret := manifest(424242, h.config, h.layer)
	first, public := manifest(1, h.config, h.layer), manifest(7, digest.FromString("public config"), digest.FromString("public layer"))
	h.manifest, h.history = digest.FromString(secret), digest.FromString(first)
	var moved atomic.Bool
	ended := make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		content := ""
		switch {
		case strings.HasSuffix(r.URL.Path, "/app/blobs/"+h.layer.String()):
			w.Header().Set("Content-Length", "424242")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			select {
			case <-ended:
			case <-r.Context().Done():
			}
			return
		case strings.Contains(r.URL.Path, hiddenTag) || strings.Contains(r.URL.Path, h.manifest.Encoded()):
			h.asked.Add(1)
			if content = secret; !moved.Load() {
				content = first
			}
			if h.gone.Load() {
				content = ""
			}
		case strings.HasSuffix(r.URL.Path, "/app/manifests/v1"):
			content = public
		}
		if content == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = w.Write([]byte(content)) // the test fails without it
	}))
	t.Cleanup(up.Close)
	t.Cleanup(func() { close(ended) })
	other := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(other.Close)
	h.upstream = strings.TrimPrefix(other.URL, "http://")

	text := "[global]\ntag_ttl = \"0s\"\n"
	for _, user := range []string{"alice", "bob", "carol"} {
		text += "[auth.identity." + user + "]\nusername = \"" + user + "\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n" // secret
	}
	text += "[repository.up]\nprefetch = false\n[[repository.up.upstream]]\nurl = \"" + up.URL + "\"\n" +
		"[repository.up.access_policy]\ndefault = \"allow\"\nrules = [\n" +
		"\"request.action == 'list-tags' && identity.username == 'carol'\",\n" +
		"\"identity.username != 'alice' && has(request.reference) && request.reference in ['" + hiddenTag + "', '" + h.manifest.String() + "', '" + h.history.String() + "']\",\n" +
		"\"identity.username != 'alice' && has(request.digest) && request.digest in ['" + h.config.String() + "', '" + h.layer.String() + "', '" + h.manifest.String() + "']\",\n]\n" +
		"[repository.\"" + hiddenBlock + "\"]\nallow = [\"alice\"]\n[[repository.\"" + hiddenBlock + "\".upstream]]\nurl = \"" + other.URL + "\"\n"
	cfg, _ := loadText(t, text)
	var err error
	if h.mirror, err = build(cfg, discard()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	h.secrets = []string{hiddenTag, hiddenBlock, h.upstream, "424242"}
	for _, dgst := range []digest.Digest{h.manifest, h.config, h.layer, h.history} {
		h.secrets = append(h.secrets, dgst.Encoded()[:7])
	}

	h.expect(t, "alice", "GET", "/v2/up/app/manifests/"+hiddenTag, "", 200)
	moved.Store(true)
	h.expect(t, "alice", "GET", "/v2/up/app/manifests/"+hiddenTag, "", 200)
	h.expect(t, "alice", "GET", "/v2/up/app/manifests/v1", "", 200)
	h.expect(t, "alice", "GET", "/v2/"+hiddenBlock+"/app/manifests/v1", "", 404)
	h.expect(t, "alice", "PUT", "/api/v1/pins/up%2Fapp:"+hiddenTag, "", 200)
	ctx, leave := context.WithCancel(t.Context())
	var pulling sync.WaitGroup
	pulling.Go(func() { h.send(ctx, "alice", "GET", "/v2/up/app/blobs/"+h.layer.String(), "") })
	t.Cleanup(pulling.Wait)
	t.Cleanup(leave)
	h.expect(t, "alice", "POST", "/api/v1/warm", `{"images": ["up/app:`+hiddenTag+`"]}`, 202)
	waitFor(t, "a download runs", func() bool { return len(h.engine.downloads.Running()) > 0 })
	return h
}

// send sends a request of a user. The body is JSON or, to a page, a form.
func (h *hiding) send(ctx context.Context, user, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, "http://localhost:8000"+path, strings.NewReader(body))
	r.SetBasicAuth(user, "secret")
	r.Header.Set("Accept", "text/html")
	if !strings.HasPrefix(path, "/api/") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	return w
}

func (h *hiding) expect(t *testing.T, user, method, path, body string, status int) *httptest.ResponseRecorder {
	t.Helper()
	w := h.send(t.Context(), user, method, path, body)
	if w.Code != status {
		t.Errorf("%s: %s %s: %d, want %d: %s", user, method, path, w.Code, status, w.Body)
	}
	return w
}

// reveals returns the secrets in an answer besides those that the client has sent itself.
func (h *hiding) reveals(w *httptest.ResponseRecorder, sent string) (found []string) {
	answer := w.Body.String() + w.Header().Get("Location")
	for _, secret := range h.secrets {
		if !strings.Contains(sent, secret) && strings.Contains(answer, secret) {
			found = append(found, secret)
		}
	}
	return found
}

// asks is a request, and whether it shows a secret to alice.
type asks struct {
	method, path, body string
	tells              bool
}

// reading are requests that change nothing, without the names of secrets.
func reading() []asks {
	return []asks{
		{"GET", "/api/v1/repositories", "", false},
		{"GET", "/api/v1/repositories?sort=last", "", false},
		{"GET", "/api/v1/repositories/up%2Fapp", "", false},
		{"GET", "/api/v1/repositories/up%2Fapp/tags", "", true},
		{"GET", "/api/v1/repositories/up%2Fapp/tags?n=1", "", true},
		{"GET", "/api/v1/repositories/up%2Fapp/tags?sizes=true", "", true},
		{"GET", "/api/v1/repositories/up%2Fapp/tags/v1", "", false},
		{"GET", "/api/v1/repositories/up%2Fapp/tags/v1/history", "", false},
		{"GET", "/api/v1/downloads", "", true},
		{"GET", "/api/v1/status", "", true},
		{"GET", "/api/v1/requests", "", true},
		{"GET", "/api/v1/requests?q=secret", "", true},
		{"GET", "/api/v1/pins", "", true},
		{"GET", "/api/v1/jobs", "", true},
		{"GET", "/", "", true},
		{"GET", "/repositories", "", true},
		{"GET", "/repository?name=up%2Fapp", "", true},
		{"GET", "/image?name=up%2Fapp&tag=v1", "", false},
		{"GET", "/pins", "", true},
		{"GET", "/activity", "", true},
		{"GET", "/upstreams", "", true},
		{"GET", "/clients", "", false},
		{"GET", "/configuration", "", true},
		{"GET", "/add-registry", "", false},
		{"POST", "/add-registry", "kind=private&url=https%3A%2F%2Fx.example&action=show", false},
	}
}

// naming are requests whose path or body has a name of its own: the hidden one, or that of nothing.
func (h *hiding) naming() []asks {
	post := func(path, body string) asks { return asks{"POST", path, body, true} }
	all := []asks{
		{"GET", "/api/v1/repositories?block=" + hiddenBlock, "", false},
		{"GET", "/api/v1/repositories?q=" + hiddenBlock, "", false},
		{"GET", "/api/v1/repositories/" + hiddenBlock + "%2Fapp", "", false},
		{"GET", "/api/v1/repositories/" + hiddenBlock + "%2Fapp/tags", "", false},
		{"GET", "/repositories?block=" + hiddenBlock, "", false},
		{"GET", "/repository?name=" + hiddenBlock + "%2Fapp", "", false},
		{"GET", "/image?name=" + hiddenBlock + "%2Fapp&tag=v1", "", false},
		{"GET", "/api/v1/repositories/up%2Fapp/tags?last=" + hiddenTag, "", false},
		{"GET", "/api/v1/repositories/up%2Fapp/tags/" + hiddenTag, "", true},
		{"GET", "/api/v1/repositories/up%2Fapp/tags/" + hiddenTag + "/history", "", true},
		{"GET", "/api/v1/repositories/up%2Fapp/manifests/" + h.manifest.String(), "", true},
		{"GET", "/image?name=up%2Fapp&tag=" + hiddenTag, "", true},
		{"GET", "/image?name=up%2Fapp&digest=" + h.manifest.String(), "", true},
		{"GET", "/add-registry?added=" + hiddenBlock, "", false},
		{"POST", "/remove-registry", "key=" + hiddenBlock, false},
		{"PUT", "/api/v1/pins/up%2Fapp:" + hiddenTag, "", true},
		{"PUT", "/api/v1/pins/up%2Fapp@" + h.manifest.String(), "", true},
		{"DELETE", "/api/v1/pins/up%2Fapp:" + hiddenTag, "", true},
		{"DELETE", "/api/v1/images/up%2Fapp:" + hiddenTag, "", true},
		{"DELETE", "/api/v1/images/up%2Fapp@" + h.manifest.String(), "", true},
		post("/api/v1/refresh", `{"image": "up/app:`+hiddenTag+`"}`),
		post("/api/v1/refresh", `{"image": "`+hiddenBlock+`/app:v1"}`),
		post("/api/v1/warm", `{"images": ["`+hiddenBlock+`/app:v1"]}`),
		post("/refresh", "image=up%2Fapp:"+hiddenTag),
		post("/pin", "image=up%2Fapp:"+hiddenTag),
		post("/unpin", "image=up%2Fapp:"+hiddenTag),
		post("/remove", "image=up%2Fapp:"+hiddenTag),
		post("/warm", "image="+hiddenBlock+"%2Fapp:v1"),
	}
	for _, client := range clientconfig.Clients() {
		all = append(all, asks{"GET", "/clients?client=" + client + "&url=http%3A%2F%2F" + hiddenBlock, "", false})
	}
	return all
}

// other returns a text with the names of nothing in place of the hidden ones.
func (h *hiding) other(text string) string {
	return strings.NewReplacer(hiddenBlock, noBlock, hiddenTag, noTag, h.manifest.String(), digest.FromString("nothing").String(), h.manifest.Encoded()[:12], digest.FromString("nothing").Encoded()[:12]).Replace(text)
}

// A hidden block and a hidden image leave no trace in any answer to a client that may not pull them, and
// a request that names them gets the answer of one for nothing. It changes nothing either.
func TestHiddenContentLeavesNoTrace(t *testing.T) {
	h := newHiding(t)
	h.expect(t, "alice", "POST", "/upstreams", "", 303)
	h.gone.Store(true)
	h.expect(t, "bob", "POST", "/upstreams", "", 303) // the check asks for a cached image, and fails
	for _, one := range reading() {
		if w := h.send(t.Context(), "alice", one.method, one.path, one.body); one.tells && len(h.reveals(w, one.path+one.body)) == 0 {
			t.Errorf("%s %s tells alice nothing, so it proves nothing: %d %s", one.method, one.path, w.Code, w.Body)
		}
		for _, user := range []string{"bob", "carol"} {
			w := h.send(t.Context(), user, one.method, one.path, one.body)
			if found := h.reveals(w, one.path+one.body); len(found) > 0 {
				t.Errorf("%s: %s %s tells of %q: %s", user, one.method, one.path, found, w.Body)
			}
		}
	}
	h.gone.Store(false)
	asked := h.asked.Load()
	for _, one := range h.naming() {
		for _, user := range []string{"bob", "carol"} {
			w := h.send(t.Context(), user, one.method, one.path, one.body)
			if found := h.reveals(w, one.path+one.body); len(found) > 0 {
				t.Errorf("%s: %s %s %s tells of %q: %s", user, one.method, one.path, one.body, found, w.Body)
			}
			unknown := h.send(t.Context(), user, one.method, h.other(one.path), h.other(one.body))
			if got := h.other(w.Body.String()); w.Code != unknown.Code || got != unknown.Body.String() || h.other(w.Header().Get("Location")) != unknown.Header().Get("Location") {
				t.Errorf("%s: %s %s %s: %d %s\nand for nothing: %d %s", user, one.method, one.path, one.body, w.Code, got, unknown.Code, unknown.Body)
			}
		}
	}
	h.expect(t, "bob", "POST", "/api/v1/warm", `{"images": ["up/app:v1", "up/app:`+hiddenTag+`"]}`, 404)
	h.expect(t, "bob", "POST", "/warm", "image=up%2Fapp:"+hiddenTag, 404)
	job := h.warmings.Jobs()[0].ID
	h.expect(t, "bob", "DELETE", "/api/v1/jobs/"+job, "", 404)
	h.expect(t, "bob", "POST", "/cancel", "job="+job, 404)
	// Neither may remove all tags, since neither may list and pull all.
	for _, user := range []string{"bob", "carol"} {
		for _, w := range []*httptest.ResponseRecorder{
			h.expect(t, user, "DELETE", "/api/v1/images/up%2Fapp", "", 403), h.expect(t, user, "POST", "/remove", "image=up%2Fapp", 403),
		} {
			if found := h.reveals(w, ""); len(found) > 0 {
				t.Errorf("a refusal tells %s of %q: %s", user, found, w.Body)
			}
		}
	}
	if n := h.asked.Load(); n != asked || len(h.warmings.Jobs()) != 1 {
		t.Errorf("the upstream was asked for the hidden image %d times, and there are %d jobs", n-asked, len(h.warmings.Jobs()))
	}
	if w := h.expect(t, "alice", "GET", "/api/v1/pins", "", 200); !strings.Contains(w.Body.String(), hiddenTag) {
		t.Errorf("the pin is gone: %s", w.Body)
	}
	h.expect(t, "alice", "GET", "/api/v1/repositories/up%2Fapp/tags/"+hiddenTag, "", 200)
}

// Streams of events, and of the live parts of pages, tell no more than the lists.
func TestHiddenContentInStreams(t *testing.T) {
	h := newHiding(t)
	ctx, leave := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer leave()
	var following sync.WaitGroup
	for _, path := range []string{"/api/v1/events", "/", "/activity"} {
		for _, user := range []string{"alice", "bob", "carol"} {
			following.Go(func() {
				w := h.send(ctx, user, "GET", path, "", "Accept", pages.Events, "Last-Event-ID", "0")
				found := h.reveals(w, "")
				if user == "alice" && len(found) == 0 || user != "alice" && len(found) > 0 || w.Code != 200 || !strings.Contains(w.Body.String(), "event: ") {
					t.Errorf("%s: %s: %q: %d %s", user, path, found, w.Code, w.Body)
				}
			})
		}
	}
	following.Wait()
}

// A stream ends with the rules that let its client in, so that a removed user follows nothing any more.
func TestStreamsEndWithTheirRules(t *testing.T) {
	h := newHiding(t)
	server := httptest.NewServer(h.handler)
	defer server.Close()
	for _, path := range []string{"/api/v1/events", "/"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth("alice", "secret")
		request.Header.Set("Accept", pages.Events)
		answer, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		lines := bufio.NewScanner(answer.Body)
		for lines.Scan() && !strings.HasPrefix(lines.Text(), "event: ") { // the first event is sent at once
		}
		cfg := *h.routing.clients.denied.inForce.Load()
		if err := h.apply(&cfg); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		for lines.Scan() {
		}
		if took := time.Since(begun); lines.Err() != nil || took > 30*time.Second { // a stream lasts a minute
			t.Errorf("%s went on for %s: %v", path, took, lines.Err())
		}
	}
}

// A client that may pull from a repository, but not list its tags, is told so, and gets no tag that it has not
// named.
func TestTagsMayNotBeListed(t *testing.T) {
	h := newHiding(t)
	for path, status := range map[string]int{"/api/v1/repositories/up%2Fapp/tags": 403, "/api/v1/repositories/up%2Fapp/tags?sizes=true": 403, "/repository?name=up%2Fapp": 200} {
		w := h.expect(t, "carol", "GET", path, "", status)
		if body := w.Body.String(); !strings.Contains(body, "list the tags of") || strings.Contains(body, "v1\"") || strings.Contains(body, "tag=v1") {
			t.Errorf("%s: %s", path, body)
		}
	}
	h.expect(t, "carol", "GET", "/api/v1/repositories/"+hiddenBlock+"%2Fapp/tags", "", 404)
	h.expect(t, "carol", "GET", "/api/v1/repositories/up%2Fapp/tags/v1", "", 200)
	known := h.expect(t, "bob", "GET", "/api/v1/repositories/up%2Fapp/tags/v1", "", 200)
	var tag struct{ Digest string }
	if err := json.Unmarshal(known.Body.Bytes(), &tag); err != nil {
		t.Fatal(err)
	}
	// The tags that go with a manifest are removed, and not listed.
	w := h.expect(t, "carol", "DELETE", "/api/v1/images/up%2Fapp@"+tag.Digest, "", 200)
	if !strings.Contains(w.Body.String(), `"tags":[],"manifests":1`) {
		t.Errorf("the removal: %s", w.Body)
	}
	h.expect(t, "bob", "GET", "/api/v1/repositories/up%2Fapp/tags/v1", "", 404)
}

// A manifest that a hidden tag names too cannot be removed with that tag.
func TestManifestOfAHiddenTagStays(t *testing.T) {
	h := newHiding(t)
	alias := &hiding{mirror: h.mirror}
	cfg := *h.routing.clients.denied.inForce.Load()
	cfg.Namespaces = slices.Clone(cfg.Namespaces)
	for i := range cfg.Namespaces {
		if p := cfg.Namespaces[i].AccessPolicy; p != nil {
			hidesTag := *p
			hidesTag.Rules = []string{"identity.username != 'alice' && has(request.reference) && request.reference == '" + hiddenTag + "'"}
			cfg.Namespaces[i].AccessPolicy = &hidesTag
		}
	}
	if err := h.apply(&cfg); err != nil {
		t.Fatal(err)
	}
	w := alias.expect(t, "bob", "DELETE", "/api/v1/images/up%2Fapp@"+h.manifest.String(), "", 403)
	if strings.Contains(w.Body.String(), hiddenTag) {
		t.Errorf("%s", w.Body)
	}
	alias.expect(t, "bob", "DELETE", "/api/v1/images/up%2Fapp@"+h.history.String(), "", 200)
	alias.expect(t, "alice", "GET", "/api/v1/repositories/up%2Fapp/tags/"+hiddenTag, "", 200)
}

// The tables above have each path of the API with each of its methods, and each page.
func TestHiddenContentIsSoughtEverywhere(t *testing.T) {
	h := newHiding(t)
	var document struct {
		Paths map[string]map[string]any
	}
	if err := json.Unmarshal(h.expect(t, "alice", "GET", "/api/v1/openapi.json", "", 200).Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	sought := []string{"GET /api/v1/events", "POST /api/v1/warm", "DELETE /api/v1/jobs/{id}"} // by tests of their own, and by lines of the first
	wanted := make(map[string]bool)
	for path, methods := range document.Paths {
		for method := range methods {
			wanted[strings.ToUpper(method)+" /api/v1"+path] = true
		}
	}
	for _, path := range pages.New(pages.Options{}).Paths() {
		if !strings.HasPrefix(path, "/assets/") {
			wanted[path] = true
		}
	}
	for _, one := range append(reading(), h.naming()...) {
		path, _, _ := strings.Cut(one.path, "?")
		sought = append(sought, path) // of a page
		for described := range document.Paths {
			if fits(strings.Split("/api/v1"+described, "/"), strings.Split(path, "/")) {
				sought = append(sought, one.method+" /api/v1"+described)
			}
		}
	}
	sought = append(sought, "/cancel") // by a line of the first
	for _, one := range slices.Sorted(maps.Keys(wanted)) {
		if !slices.Contains(sought, one) {
			t.Errorf("no request for %s", one)
		}
	}
}

// fits reports whether the segments of a path are those of a described one.
func fits(described, path []string) bool {
	return slices.EqualFunc(described, path, func(a, b string) bool { return a == b || strings.HasPrefix(a, "{") && b != "" })
}

// The files of a client are those for the blocks that its user may know of.
func TestClientFilesOfVisibleBlocks(t *testing.T) {
	h := newHiding(t)
	guess := "/clients?client=containerd&url=" + url.QueryEscape("http://"+hiddenBlock)
	if w := h.expect(t, "alice", "GET", guess, "", 200); !strings.Contains(w.Body.String(), "cannot be the mirror") {
		t.Errorf("alice is not told of the conflict: %s", w.Body)
	}
	if w := h.expect(t, "alice", "GET", "/clients?client=containerd", "", 200); !strings.Contains(w.Body.String(), hiddenBlock) {
		t.Errorf("alice has no file for the block: %s", w.Body)
	}
	for _, client := range clientconfig.Clients() {
		if w := h.expect(t, "bob", "GET", "/clients?client="+client, "", 200); strings.Contains(w.Body.String(), hiddenBlock) {
			t.Errorf("%s: bob has a file for the block: %s", client, w.Body)
		}
	}
}
