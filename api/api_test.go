package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/namespace/inventory"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mirror is a handler over views that a test fills.
type mirror struct {
	*Handler
	repos   []Repository
	hidden  string
	refuses func(Repository, Question) bool // nil: nothing
	known   map[string]inventory.Repository
	tagsOf  []string
	fail    error
	gate    chan struct{} // nil: open
	listing bool          // the names are not known yet
	label   string        // ends a label of the image
	reads   atomic.Int32
	runs    []download.State
	result  namespace.Manifest
	asked   []string
	counted counted
	warms   warms
}

func newMirror(t *testing.T, names ...string) *mirror {
	t.Helper()
	m := &mirror{known: make(map[string]inventory.Repository)}
	for _, name := range names {
		m.repos = append(m.repos, repositoryOf(name))
		m.known[name] = inventory.Repository{Tags: 1, Contents: 1}
	}
	slices.SortFunc(m.repos, func(a, b Repository) int { return cmp.Compare(a.Name, b.Name) })
	m.Handler = New(Options{Names: m, Inventory: m, Downloads: m, Refresher: m, State: &m.counted, Traffic: &m.counted, Warmer: &m.warms, Logger: slog.New(slog.DiscardHandler)})
	m.opts.Address = func(r *http.Request) netip.Addr { return netip.MustParseAddrPort(r.RemoteAddr).Addr() }
	return m
}

func repositoryOf(name string) Repository {
	block, below, _ := strings.Cut(name, "/")
	return Repository{ID: storage.RepoID{Namespace: block, Name: below}, Block: block, Name: name}
}

func (m *mirror) All(ctx context.Context) ([]Repository, error) {
	if m.listing {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m.repos, m.fail
}

func (m *mirror) Find(name string) (Repository, bool) {
	return repositoryOf(name), strings.Contains(name, "/")
}

func (m *mirror) Of(id storage.RepoID) (Repository, bool) {
	return repositoryOf(id.String()), id.Namespace != "removed"
}

func (m *mirror) Refresh(_ context.Context, r Repository, tag string) (*namespace.Manifest, error) {
	m.asked = append(m.asked, r.Name+":"+tag)
	return &m.result, m.fail
}

func (m *mirror) Running() []download.State { return m.runs }

func (m *mirror) Sees(_ context.Context, r Repository) bool { return r.Name != m.hidden }

func (m *mirror) Permits(_ context.Context, r Repository, q Question) bool {
	return m.refuses == nil || !m.refuses(r, q)
}

func (m *mirror) Repository(ctx context.Context, repo storage.RepoID) (inventory.Repository, error) {
	m.reads.Add(1)
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return inventory.Repository{}, ctx.Err()
		}
	}
	return m.known[repo.String()], m.fail
}

func (m *mirror) Tags(context.Context, storage.RepoID) ([]string, error) { return m.tagsOf, m.fail }

func (m *mirror) Sizes(ctx context.Context, _ storage.RepoID, tags []string) map[string]int64 {
	if slices.Contains(tags, "slow") {
		<-ctx.Done()
	}
	return map[string]int64{tags[0]: 16}
}

func (m *mirror) Tag(_ context.Context, _ storage.RepoID, tag string) (inventory.Tag, error) {
	if tag != "v1" {
		return inventory.Tag{}, storage.ErrNotExist
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("v1")}
	return inventory.Tag{Tag: catalog.Tag{Descriptor: desc, Checked: time.Unix(1, 0)}, Pulls: catalog.PullsAt(3, time.Unix(86400, 0), catalog.Client{Name: "alice"})}, m.fail
}

func (m *mirror) History(context.Context, storage.RepoID, string) ([]catalog.Named, error) {
	return []catalog.Named{{Digest: digest.FromString("v0"), Last: time.Unix(1, 0)}}, m.fail
}

func (m *mirror) Manifest(_ context.Context, _ storage.RepoID, dgst digest.Digest) (inventory.Manifest, error) {
	if dgst != digest.FromString("v1") {
		return inventory.Manifest{}, storage.ErrNotExist
	}
	part := inventory.Part{Descriptor: ocispec.Descriptor{Digest: digest.FromString("part"), Size: 7}, Cached: true}
	return inventory.Manifest{
		Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgst, Size: 9}, Cached: true, Size: 16, Config: &part,
		Image:  &inventory.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Labels: map[string]string{"<script>": "\u202e</script>" + m.label}},
		Layers: []inventory.Part{part}, Referrers: []inventory.Part{part},
	}, m.fail
}

func (m *mirror) do(t *testing.T, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, Prefix+path, nil))
	return w
}

func (m *mirror) get(t *testing.T, path string) *httptest.ResponseRecorder {
	t.Helper()
	return m.do(t, http.MethodGet, path)
}

// getFrom is get of a client with an address.
func (m *mirror) getFrom(t *testing.T, address, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	m.ServeHTTP(w, from(t, address, path))
	return w
}

func from(t *testing.T, address, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, Prefix+path, nil)
	r.RemoteAddr = address + ":1234"
	return r
}

// names returns the names of a list and the path of its next page below Prefix.
func (m *mirror) names(t *testing.T, path string) (names []string, next string) {
	t.Helper()
	w := m.get(t, path)
	expectDescribed(t, "/repositories", w.Code, w.Body.Bytes())
	var document RepositoriesDocument
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	for _, one := range document.Repositories {
		names = append(names, one.Name)
	}
	return names, strings.TrimPrefix(document.Next, Prefix)
}

// Each path answers as its description says, also if it fails.
func TestAnswersAreDescribed(t *testing.T) {
	m := newMirror(t, "a/app")
	m.tagsOf = []string{"v1", "v2"}
	manifests := "repositories/a%2Fapp/manifests/"
	for _, one := range []struct {
		route, path string
		status      int
	}{
		{"/repositories", "repositories", 200},
		{"/repositories", "repositories?sort=colour", 400},
		{"/repositories", "repositories?n=1001", 400},
		{"/repositories", "repositories?n=x", 400},
		{"/repositories", "repositories?page=2", 400},
		{"/repositories", "repositories?q=" + strings.Repeat("x", 513), 400},
		{"/repositories/{name}", "repositories/a%2Fapp", 200},
		{"/repositories/{name}", "repositories/a%2Fother", 404},
		{"/repositories/{name}", "repositories/none", 404},
		{"/repositories/{name}/tags", "repositories/a%2Fapp/tags?n=1", 200},
		{"/repositories/{name}/tags", "repositories/a%2Fapp/tags?q=1", 400},
		{"/repositories/{name}/tags", "repositories/a%2Fapp/tags?sizes=true", 200},
		{"/repositories/{name}/tags", "repositories/a%2Fapp/tags?sizes=false", 400},
		{"/repositories/{name}/tags/{tag}", "repositories/a%2Fapp/tags/v1", 200},
		{"/repositories/{name}/tags/{tag}", "repositories/a%2Fapp/tags/v2", 404},
		{"/repositories/{name}/tags/{tag}", "repositories/a%2Fapp/tags/%3Cscript%3E", 400},
		{"/repositories/{name}/tags/{tag}/history", "repositories/a%2Fapp/tags/v1/history", 200},
		{"/repositories/{name}/manifests/{digest}", manifests + digest.FromString("v1").String(), 200},
		{"/repositories/{name}/manifests/{digest}", manifests + digest.FromString("v2").String(), 404},
		{"/repositories/{name}/manifests/{digest}", manifests + "v1", 400},
	} {
		w := m.get(t, one.path)
		expectDescribed(t, one.route, w.Code, w.Body.Bytes())
		if w.Code != one.status {
			t.Errorf("%s: %d %s", one.path, w.Code, w.Body)
		}
		if one.status != http.StatusOK {
			continue
		}
		m.fail = errors.New("the disk at /secret is broken")
		m.figures.Purge()
		w = m.get(t, one.path)
		expectDescribed(t, one.route, w.Code, w.Body.Bytes())
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d %s", one.path, w.Code, w.Body)
		}
		m.fail = nil
	}
}

// A list comes in pages, in the order of the names or of a figure, without the repositories
// that the client may not know of.
func TestListOfRepositories(t *testing.T) {
	m := newMirror(t, "a/one", "a/two", "b/one", "b/secret", "b/three")
	m.hidden = "b/secret"
	m.known["a/two"] = inventory.Repository{Tags: 2, Size: 10, Pulls: catalog.PullsAt(1, time.Unix(30, 0))}
	m.known["b/one"] = inventory.Repository{Tags: 3, Size: 20, Pulls: catalog.PullsAt(2, time.Unix(20, 0))}
	m.known["b/secret"] = inventory.Repository{Tags: 3, Size: 30}
	m.known["b/three"] = inventory.Repository{Tags: 1, Size: 5, Pulls: catalog.PullsAt(3, time.Unix(10, 0))}
	for query, want := range map[string]string{
		"":                  "a/one a/two b/one b/three",
		"?sort=name":        "a/one a/two b/one b/three",
		"?block=b":          "b/one b/three",
		"?q=one":            "a/one b/one",
		"?q=secret":         "",
		"?sort=size":        "b/one a/two b/three a/one",
		"?sort=pulls":       "b/three b/one a/two a/one",
		"?sort=last&q=t":    "a/two b/three",
		"?last=a/two":       "b/one b/three",
		"?last=b/secret":    "b/three",
		"?last=zzz":         "",
		"?sort=size&n=1000": "b/one a/two b/three a/one",
	} {
		if got, next := m.names(t, "repositories"+query); strings.Join(got, " ") != want || next != "" {
			t.Errorf("%s: %q, next %q", query, got, next)
		}
		var paged []string
		path := "repositories?n=1"
		if query != "" && !strings.Contains(query, "n=") {
			path += "&" + query[1:]
		} else if query != "" {
			continue
		}
		for pages := 0; path != "" && pages < 10; pages++ {
			var names []string
			names, path = m.names(t, path)
			paged = append(paged, names...)
		}
		if strings.Join(paged, " ") != want {
			t.Errorf("%s in pages: %q", query, paged)
		}
	}
	if w := m.get(t, "repositories?sort=size&last=b/secret"); w.Code != http.StatusBadRequest {
		t.Errorf("the place of a hidden repository: %d %s", w.Code, w.Body)
	}
}

// No more repositories are sorted than the records of which can be read.
func TestSortedListIsBounded(t *testing.T) {
	var names []string
	for i := range maxSorted + 1 {
		names = append(names, fmt.Sprintf("a/%05d", i))
	}
	m := newMirror(t, names...)
	if w := m.get(t, "repositories?sort=size"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "block") || m.reads.Load() != 0 {
		t.Errorf("%d %s after %d reads", w.Code, w.Body, m.reads.Load())
	}
	if got, _ := m.names(t, "repositories?sort=size&q=a/00"); len(got) != usualPage || m.reads.Load() != 1000 {
		t.Errorf("%d names after %d reads", len(got), m.reads.Load())
	}
	if got, next := m.names(t, "repositories?n=1000"); len(got) != 1000 || next == "" {
		t.Errorf("%d names, next %q", len(got), next)
	}
}

// The figures of a list are read again after a minute.
func TestFiguresAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, "a/app")
		m.names(t, "repositories")
		if m.names(t, "repositories"); m.reads.Load() != 1 {
			t.Errorf("%d reads", m.reads.Load())
		}
		time.Sleep(figuresAge)
		if m.names(t, "repositories"); m.reads.Load() != 2 {
			t.Errorf("%d reads after a minute", m.reads.Load())
		}
	})
}

// A list that is wanted soon tells that the repositories are not known yet. Another one waits.
func TestListingSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, "a/app")
		m.listing = true
		if document, err := m.Repositories(t.Context(), Query{Soon: true}); err != nil || !document.Listing {
			t.Errorf("%+v, %v", document, err)
		}
		brief, leave := context.WithTimeout(t.Context(), time.Minute)
		defer leave()
		if _, err := m.Repositories(brief, Query{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a list that waits: %v", err)
		}
	})
}

// A list that is wanted soon has older figures, or none, while the repositories are counted.
func TestFiguresSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, "a/app", "a/tool")
		m.gate = make(chan struct{})
		list := func(want int) {
			t.Helper()
			began, counted := time.Now(), 0
			document, err := m.Repositories(t.Context(), Query{Sort: "size", Soon: true})
			if took := time.Since(began); err != nil || took > patience || len(document.Repositories) != 2 {
				t.Fatalf("%+v after %s: %v", document, took, err)
			}
			for _, one := range document.Repositories {
				if one.Counted {
					counted++
				}
			}
			if counted != want {
				t.Errorf("%d repositories are counted, want %d", counted, want)
			}
		}
		list(0)
		for n := range 2 {
			m.gate <- struct{}{}
			synctest.Wait()
			list(n + 1)
		}
		time.Sleep(figuresAge)
		list(2) // the older figures
		if n := m.reads.Load(); n != 3 {
			t.Errorf("%d reads", n)
		}
		m.Close()
	})
}

// Tags come in pages.
func TestPagesOfTags(t *testing.T) {
	m := newMirror(t, "a/app")
	for i := range 10_000 {
		m.tagsOf = append(m.tagsOf, fmt.Sprintf("v%05d", i))
	}
	var got []string
	path := "repositories/a%2Fapp/tags?n=1000"
	for pages := 0; path != "" && pages < 20; pages++ {
		w := m.get(t, path)
		expectDescribed(t, "/repositories/{name}/tags", w.Code, w.Body.Bytes())
		var document TagsDocument
		if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil {
			t.Fatal(err)
		}
		got, path = append(got, document.Tags...), strings.TrimPrefix(document.Next, Prefix)
	}
	if !slices.Equal(got, m.tagsOf) {
		t.Errorf("%d tags", len(got))
	}
}

// The list of tags has the sizes that are known in time, if they are asked for, on each page.
func TestSizesOfTags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, "a/app")
		m.tagsOf = []string{"slow", "v1", "v2"}
		sizes := func(path string) (TagsDocument, map[string]int64) {
			t.Helper()
			w := m.get(t, path)
			expectDescribed(t, "/repositories/{name}/tags", w.Code, w.Body.Bytes())
			var document TagsDocument
			if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || w.Code != http.StatusOK {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			return document, document.Sizes
		}
		if _, got := sizes("repositories/a%2Fapp/tags"); got != nil {
			t.Errorf("sizes that were not asked for: %v", got)
		}
		began := time.Now()
		first, got := sizes("repositories/a%2Fapp/tags?n=1&sizes=true")
		if took := time.Since(began); len(got) != 1 || got["slow"] != 16 || took != sizing {
			t.Errorf("%v after %s", got, took)
		}
		if _, got := sizes(strings.TrimPrefix(first.Next, Prefix)); len(got) != 1 || got["v1"] != 16 {
			t.Errorf("the next page: %v", got)
		}
		began = time.Now()
		soon, err := m.Handler.Tags(t.Context(), "a/app", TagsQuery{Sizes: true, Soon: true})
		if took := time.Since(began); err != nil || len(soon.Tags) != 3 || soon.Sizes["slow"] != 16 || took != briefSizing {
			t.Errorf("%+v after %s: %v", soon, took, err)
		}
	})
}

// A hidden repository is as unknown as one that is not there.
func TestHiddenRepository(t *testing.T) {
	m := newMirror(t, "a/secret")
	m.hidden = "a/secret"
	for _, below := range []string{"", "/tags", "/tags/v1", "/tags/v1/history", "/manifests/" + digest.FromString("v1").String()} {
		hidden := m.get(t, "repositories/"+url.PathEscape("a/secret")+below)
		none := m.get(t, "repositories/none"+below)
		if hidden.Code != http.StatusNotFound || hidden.Body.String() != none.Body.String() {
			t.Errorf("%q: %d %s, and %s", below, hidden.Code, hidden.Body, none.Body)
		}
	}
}

// A few requests read at once. Some more wait for a while, not all of one network, and others are told
// to come later.
func TestReadersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMirror(t, "a/app")
		m.gate = make(chan struct{})
		codes := make(chan *httptest.ResponseRecorder, 100)
		busy := func(address string) {
			t.Helper()
			w := m.getFrom(t, address, "repositories/a%2Fapp")
			expectDescribed(t, "/repositories/{name}", w.Code, w.Body.Bytes())
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
				t.Errorf("one more from %s: %d %s", address, w.Code, w.Body)
			}
		}
		for i := range atOnce + maxWaiting {
			address := "192.0.2.1"
			if i >= atOnce+maxOfNetwork {
				address = "192.0.2.2"
			}
			go func() { codes <- m.getFrom(t, address, "repositories/a%2Fapp") }()
			synctest.Wait()
			if i == atOnce+maxOfNetwork-1 {
				busy("192.0.2.1")
			}
		}
		if m.reads.Load() != atOnce {
			t.Errorf("%d requests read at once", m.reads.Load())
		}
		busy("192.0.2.1")
		busy("192.0.2.2")
		go func() { codes <- m.getFrom(t, "192.0.2.3", "repositories/a%2Fapp") }() // takes the place of another
		synctest.Wait()
		refused := 0
		for range atOnce + maxWaiting + 1 { // after half a minute
			w := <-codes
			if w.Code != http.StatusServiceUnavailable {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if !strings.Contains(w.Body.String(), "in time") {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d were refused at once, want the last one of the longest line", refused)
		}
		m.gate = nil
		if w := m.get(t, "repositories/a%2Fapp"); w.Code != http.StatusOK {
			t.Errorf("then: %d %s", w.Code, w.Body)
		}
	})
}

// The running downloads are told, but for those of repositories that the client may not know of
// or that are in no block any more.
func TestDownloads(t *testing.T) {
	m := newMirror(t)
	m.hidden = "b/secret"
	for _, repo := range []storage.RepoID{{Namespace: "a", Name: "app"}, {Namespace: "b", Name: "secret"}, {Namespace: "removed", Name: "app"}} {
		m.runs = append(m.runs, download.State{Repository: repo, Digest: digest.FromString("x"), Activity: download.Running, Size: -1})
	}
	for range maxPage {
		m.runs = append(m.runs, download.State{Repository: storage.RepoID{Namespace: "a", Name: "other"}, Activity: download.Waiting, Size: 0, Offset: 7, Origin: "up.example", Clients: 2})
	}
	w := m.get(t, "downloads")
	expectDescribed(t, "/downloads", w.Code, w.Body.Bytes())
	var document DownloadsDocument
	if err := json.Unmarshal(w.Body.Bytes(), &document); err != nil || len(document.Downloads) != maxPage || document.Omitted != 1 {
		t.Fatalf("%d downloads, %d omitted: %v", len(document.Downloads), document.Omitted, err)
	}
	first, second := document.Downloads[0], document.Downloads[1]
	if first.Name != "a/app" || first.Size != nil || first.State != download.Running {
		t.Errorf("%+v", first)
	}
	if second.Name != "a/other" || second.Size == nil || *second.Size != 0 || second.Offset != 7 || second.Source != "up.example" || second.Readers != 2 {
		t.Errorf("%+v", second)
	}
}

// A refresh tells what it found or why it failed, and asks about valid images only.
func TestRefresh(t *testing.T) {
	m := newMirror(t, "a/app")
	m.hidden = "a/secret"
	post := func(body string, status int, want string) {
		t.Helper()
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, Prefix+"refresh", strings.NewReader(body)))
		expectDescribed(t, "/refresh", w.Code, w.Body.Bytes())
		if w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%.100s: %d %s", body, w.Code, w.Body)
		}
	}
	for _, body := range []string{
		"", "[]", "{}", `{"image": "a/app:v1", "more": 1}`, `{"image": "a/app@` + digest.FromString("x").String() + `"}`, `{"image": "a/<script>"}`,
		`{"image": "a/` + strings.Repeat("x", maxText) + `"}`, `{"image": "` + strings.Repeat(" ", maxBody) + `a/app"}`,
	} {
		post(body, http.StatusBadRequest, "such as")
	}
	post(`{"image": "none"}`, http.StatusNotFound, "no such repository")
	post(`{"image": "a/secret:v1"}`, http.StatusNotFound, "no such repository")
	if len(m.asked) != 0 {
		t.Errorf("the upstream was asked about %q", m.asked)
	}
	m.result.Descriptor = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("v1")}
	for cache, want := range map[namespace.CacheStatus]string{
		namespace.Revalidated: `"unchanged"`, namespace.Moved: `"moved"`, namespace.Miss: `"fetched"`, namespace.Passed: `"not stored"`,
	} {
		m.result.Cache = cache
		post(`{"image": "a/app:v1"}`, http.StatusOK, want)
	}
	if m.asked[0] != "a/app:v1" {
		t.Errorf("the upstream was asked about %q", m.asked)
	}
	for want, err := range map[string]error{
		"404 no such tag": upstream.ErrNotFound, "409 offline": &namespace.OfflineError{}, "503 wait": &namespace.BusyError{}, "502 The log": errors.New("/secret"),
	} {
		m.fail = err
		status, text, _ := strings.Cut(want, " ")
		n, _ := strconv.Atoi(status)
		post(`{"image": "a/app"}`, n, text)
	}
}

// Large answers are in memory until their clients have read them, so a few are sent at once. Small
// ones are not held up.
func TestLargeAnswersAreFew(t *testing.T) {
	m := newMirror(t, "a/app")
	m.label = strings.Repeat("x", largeAnswer)
	path := "repositories/a%2Fapp/manifests/" + digest.FromString("v1").String()
	if w := m.get(t, path); w.Code != http.StatusOK || w.Body.Len() < largeAnswer {
		t.Fatalf("%d, %d bytes", w.Code, w.Body.Len())
	}
	var sent []func()
	hold := func(address string) {
		t.Helper()
		done, err := m.Sending(from(t, address, path), largeAnswer)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, done)
	}
	for range maxLargeOfNetwork {
		hold("192.0.2.1")
	}
	if w := m.getFrom(t, "192.0.2.1", path); w.Code != http.StatusServiceUnavailable {
		t.Errorf("a large answer too many to a client: %d", w.Code)
	}
	if w := m.getFrom(t, "192.0.2.2", path); w.Code != http.StatusOK {
		t.Errorf("one to another client: %d", w.Code)
	}
	for range maxLarge - maxLargeOfNetwork {
		hold("192.0.2.2")
	}
	if w := m.get(t, path); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("a large answer too many: %d %v", w.Code, w.Header())
	}
	m.label = ""
	if w := m.get(t, path); w.Code != http.StatusOK {
		t.Errorf("a small answer: %d", w.Code)
	}
	sent[0]()
	m.label = strings.Repeat("x", largeAnswer)
	for range 2 {
		if w := m.get(t, path); w.Code != http.StatusOK {
			t.Errorf("a large answer after another one was read: %d", w.Code)
		}
	}
}
