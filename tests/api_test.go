package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const apiPrefix = "/api/v1/"

// apiPath returns a path of the API about a repository.
func apiPath(name, below string) string {
	return apiPrefix + "repositories/" + url.PathEscape(name) + below
}

// tell returns a document of the API.
func tell(t *testing.T, w *harness.Weir, path string, headers ...string) map[string]any {
	t.Helper()
	a := w.Get(t, path, headers...)
	var document map[string]any
	if err := json.Unmarshal(a.Body, &document); err != nil || a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %d %.500s", path, a.Status, a.Body)
	}
	return document
}

// inside returns a part of a document, such as "layers.0.size", as text.
func inside(document any, path string) string {
	for part := range strings.SplitSeq(path, ".") {
		switch of := document.(type) {
		case map[string]any:
			document = of[part]
		case []any:
			var n int
			if _, err := fmt.Sscan(part, &n); err != nil || n >= len(of) {
				return ""
			}
			document = of[n]
		}
	}
	return fmt.Sprint(document)
}

func expectInside(t *testing.T, document any, want map[string]string) {
	t.Helper()
	for path, value := range want {
		if got := inside(document, path); got != value {
			t.Errorf("%s is %q, want %q in %v", path, got, value, document)
		}
	}
}

// namesOf are the names of a list of repositories.
func namesOf(document map[string]any) (names []string) {
	for _, one := range document["repositories"].([]any) {
		names = append(names, one.(map[string]any)["name"].(string))
	}
	return names
}

// addLabelled adds an image whose configuration has labels.
func addLabelled(t *testing.T, r *upstreamtest.Registry, repo, tag string, labels map[string]string) (image ocispec.Descriptor, manifest ocispec.Manifest) {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "arm64", OS: "linux"}, Config: ocispec.ImageConfig{Labels: labels}}
	manifest = ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: harness.DescriptorOf(ocispec.MediaTypeImageConfig, harness.Marshal(t, config)),
		Layers: []ocispec.Descriptor{harness.DescriptorOf(ocispec.MediaTypeImageLayer, []byte("first")), harness.DescriptorOf(ocispec.MediaTypeImageLayer, []byte("second"))},
	}
	manifest.SchemaVersion = 2
	for _, blob := range [][]byte{harness.Marshal(t, config), []byte("first"), []byte("second")} {
		r.AddBlob(repo, blob)
	}
	return r.AddManifest(repo, tag, manifest.MediaType, harness.Marshal(t, manifest)), manifest
}

// The API tells what pulls have cached, down to the layers, and asks no upstream.
func TestAPI(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	labels := map[string]string{"<script>alert(1)</script>": "\u202egnp.exe", "long": strings.Repeat("x", 64*kib)}
	image, manifest := addLabelled(t, r, "org/app", "v1", labels)
	old := image
	artifact := r.AddReferrer("org/app", image, "application/vnd.example.signature", []byte("signed"))
	w := harness.StartWeir(t, block("mirror", r))
	for _, path := range []string{
		manifestPath("mirror/org/app", "v1"), blobPath("mirror/org/app", manifest.Config.Digest), blobPath("mirror/org/app", manifest.Layers[0].Digest),
		"/v2/mirror/org/app/referrers/" + image.Digest.String(),
	} {
		expect(t, path, w.Get(t, path), http.StatusOK, "")
	}
	asked := len(r.Requests())
	list := tell(t, w, apiPrefix+"repositories")
	expectInside(t, list, map[string]string{"repositories.0.name": "mirror/org/app", "repositories.0.block": "mirror", "repositories.0.tags": "1", "repositories.0.pulls": "1", "next": "<nil>"})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "")), map[string]string{"tags": "1", "contents": "3", "pulls.total": "1", "pulls.clients.0.client": "127.0.0.1"})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags")), map[string]string{"tags": "[v1]"})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags/v1")), map[string]string{"digest": image.Digest.String(), "pulls.total": "1"})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags/v1/history")), map[string]string{"history": "[]"})
	one := tell(t, w, apiPath("mirror/org/app", "/manifests/"+image.Digest.String()))
	expectInside(t, one, map[string]string{
		"cached": "true", "config.cached": "true", "layers.0.cached": "true", "layers.1.cached": "false", "layers.1.digest": manifest.Layers[1].Digest.String(), "layers.1.size": "6",
		"image.platform.architecture": "arm64", "referrers.0.digest": artifact.Digest.String(), "referrers.0.artifactType": "application/vnd.example.signature", "referrers.0.cached": "false", "pulls.total": "1",
	})
	for name, value := range labels {
		if got := one["image"].(map[string]any)["labels"].(map[string]any)[name]; got != value {
			t.Errorf("label %q is %.100q", name, got)
		}
	}
	if got := r.Requests()[asked:]; len(got) != 0 {
		t.Errorf("the API asked the upstream: %q", got)
	}

	image = r.AddImage("org/app", "v1", []byte("a new layer"))
	expect(t, "the moved tag", w.Get(t, manifestPath("mirror/org/app", "v1")), http.StatusOK, "")
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags/v1")), map[string]string{"digest": image.Digest.String()})
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags/v1/history")), map[string]string{"history.0.digest": old.Digest.String()})
	if code := w.Terminate(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// With rules, ui-api opens the API, and a client is told of those repositories only that it may
// pull from.
func TestAPIFollowsTheRules(t *testing.T) {
	t.Parallel()
	const alice, bob, wrong = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA==", "Basic Ym9iOndyb25n"
	r := upstreamtest.New(t)
	image := r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, usersOf+"[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-api' && identity.username == 'carol'\"]\n"+
		blockOf("open", nil, at(r))+blockOf("closed", []string{`allow = ["alice"]`}, at(r))+blockOf("theirs", []string{`authorize = "upstream"`}, at(r)))
	for _, name := range []string{"open/org/app", "closed/org/app"} {
		expect(t, name, w.Get(t, manifestPath(name, "v1"), "Authorization", alice), http.StatusOK, "")
	}
	for credentials, want := range map[string]string{alice: "closed/org/app open/org/app", bob: "open/org/app"} {
		for _, query := range []string{"", "?sort=size", "?q=org", "?last=a"} {
			if got := strings.Join(namesOf(tell(t, w, apiPrefix+"repositories"+query, "Authorization", credentials)), " "); got != want {
				t.Errorf("%s: %s is told of %q", query, credentials, got)
			}
		}
	}
	for _, below := range []string{"", "/tags", "/tags/v1", "/tags/v1/history", "/manifests/" + image.Digest.String()} {
		for credentials, want := range map[string]int{alice: 200, bob: 404, wrong: 401} {
			if got := w.Get(t, apiPath("closed/org/app", below), "Authorization", credentials); got.Status != want || want != 200 && !json.Valid(got.Body) {
				t.Errorf("%q: %d %s for %s", below, got.Status, got.Body, credentials)
			}
		}
		if got := w.Get(t, apiPath("closed/org/app", below)); got.Status != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q without credentials: %d", below, got.Status)
		}
		if got := w.Get(t, apiPath("theirs/org/app", below), "Authorization", alice); got.Status != http.StatusNotFound {
			t.Errorf("%q of an upstream that decides itself: %d", below, got.Status)
		}
	}
}

// A running download is told to clients that may pull from its repository, and to none after its end.
func TestAPITellsDownloads(t *testing.T) {
	t.Parallel()
	const alice, bob = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA=="
	r, gate := upstreamtest.New(t), upstreamtest.NewGate()
	blob := addRandom(t, r, "org/app", mib, 1)
	r.Fault(upstreamtest.Blobs, upstreamtest.StallAfter(512*kib, gate))
	w := harness.StartWeir(t, usersOf+blockOf("closed", []string{`allow = ["alice"]`}, at(r)))
	pulling := w.Pull(t, blobPath("closed/org/app", blob), "Authorization", alice)
	var document map[string]any
	harness.Eventually(t, "half of the content has come", func() bool {
		document = tell(t, w, apiPrefix+"downloads", "Authorization", alice)
		return inside(document, "downloads.0.offset") == fmt.Sprint(float64(512*kib))
	})
	expectInside(t, document, map[string]string{
		"downloads.0.name": "closed/org/app", "downloads.0.block": "closed", "downloads.0.digest": blob.String(), "downloads.0.state": "running",
		"downloads.0.source": r.URL.Host, "downloads.0.size": fmt.Sprint(float64(mib)), "downloads.0.readers": "1", "omitted": "0",
	})
	expectInside(t, tell(t, w, apiPrefix+"downloads", "Authorization", bob), map[string]string{"downloads": "[]"})
	if got := w.Get(t, apiPrefix+"downloads").Status; got != http.StatusUnauthorized {
		t.Errorf("%d without credentials", got)
	}
	gate.Open()
	pulling.Whole(t, "the blob", blob)
	harness.Eventually(t, "the download has ended", func() bool {
		return inside(tell(t, w, apiPrefix+"downloads", "Authorization", alice), "downloads") == "[]"
	})
}

// refresh asks for a refresh of an image.
func refresh(t *testing.T, w *harness.Weir, image string, headers ...string) (status int, document map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.URL+apiPrefix+"refresh", strings.NewReader(`{"image": "`+image+`"}`))
	harness.Must(t, err)
	for i := 0; i < len(headers); i += 2 {
		if req.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	harness.Must(t, err)
	defer resp.Body.Close()
	harness.Must(t, json.NewDecoder(resp.Body).Decode(&document))
	return resp.StatusCode, document
}

// A refresh checks a tag at once, also an immutable one, and clients get what it found. Without
// rules, only clients on this machine may ask for it, and pages of other sites never.
func TestAPIRefreshes(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	old := r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, block("mirror", r, "immutable_tags = true"))
	expectTag := func(label string, want digest.Digest) {
		t.Helper()
		if got := w.Get(t, manifestPath("mirror/org/app", "v1")).Header.Get("Docker-Content-Digest"); got != want.String() {
			t.Errorf("%s: %s", label, got)
		}
	}
	expectRefresh := func(wantStatus int, want map[string]string, headers ...string) {
		t.Helper()
		status, document := refresh(t, w, "mirror/org/app:v1", headers...)
		if status != wantStatus {
			t.Errorf("%d %v, want %d", status, document, wantStatus)
		}
		expectInside(t, document, want)
	}
	expectRefresh(200, map[string]string{"result": "fetched", "digest": old.Digest.String(), "name": "mirror/org/app", "tag": "v1"})
	expectRefresh(200, map[string]string{"result": "unchanged"})
	moved := r.AddImage("org/app", "v1", []byte("another layer"))
	expectTag("before", old.Digest)
	asked := len(r.Requests())
	for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Origin", "https://evil.example"}, {"Host", "evil.example"}, {"X-Forwarded-For", "127.0.0.1"}, {"Forwarded", "for=127.0.0.1"}} {
		expectRefresh(403, map[string]string{"errors.0.code": "DENIED"}, headers...)
	}
	if got := r.Requests()[asked:]; len(got) != 0 {
		t.Errorf("refused refreshes asked the upstream: %q", got)
	}
	expectRefresh(200, map[string]string{"result": "moved", "digest": moved.Digest.String()})
	expectTag("after", moved.Digest)
	r.Tag("org/app", "gone", moved.Digest)
	if status, document := refresh(t, w, "mirror/org/app:gone"); status != 200 {
		t.Errorf("%d %v", status, document)
	}
	r.Untag("org/app", "gone")
	if status, document := refresh(t, w, "mirror/org/app:gone"); status != 404 {
		t.Errorf("a tag that is gone: %d %v", status, document)
	}
	expectInside(t, tell(t, w, apiPath("mirror/org/app", "/tags")), map[string]string{"tags": "[v1]"})
	r.Close()
	expectRefresh(502, map[string]string{"errors.0.code": "UNAVAILABLE"})
	expectTag("with an upstream that is down", moved.Digest)
}

// With rules, ui-change decides, a client without credentials never changes anything, and no client
// refreshes an image that it may not pull.
func TestAPIRefreshFollowsTheRules(t *testing.T) {
	t.Parallel()
	const alice, bob = "Basic YWxpY2U6c2VjcmV0", "Basic Ym9iOnNlY3JldA=="
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, "[auth]\nanonymous = true\n"+usersOf+"[global.access_policy]\ndefault = \"allow\"\nrules = [\"request.action == 'ui-change' && identity.username == 'bob'\"]\n"+
		blockOf("open", nil, at(r))+blockOf("closed", []string{`allow = ["bob"]`}, at(r)))
	for _, c := range []struct {
		image string
		want  int
		as    []string
	}{
		{"open/org/app:v1", 200, []string{"Authorization", alice}}, {"open/org/app:v1", 403, []string{"Authorization", bob}}, {"open/org/app:v1", 401, nil},
		{"closed/org/app:v1", 404, []string{"Authorization", alice}}, {"open/org/app:v2", 404, []string{"Authorization", alice}},
	} {
		if status, document := refresh(t, w, c.image, c.as...); status != c.want {
			t.Errorf("%s for %q: %d %v", c.image, c.as, status, document)
		}
	}
}

// Hostile names are data: they are refused or not found, and break nothing.
func TestAPIWithHostileNames(t *testing.T) {
	t.Parallel()
	w := harness.StartWeir(t, block("mirror", upstreamtest.New(t)))
	var all []string
	for _, name := range []string{"..", "../../etc/passwd", "mirror/../x", "mirror//x", "<script>", "\u202e", "\x00", "mirror/" + strings.Repeat("x", 5000), "mirror", "mirror/", "MIRROR/X", "mirror/_pulls", "%2F%2F"} {
		escaped := strings.ReplaceAll(url.PathEscape(name), ".", "%2E")
		all = append(all, apiPrefix+"repositories/"+escaped, apiPrefix+"repositories/"+escaped+"/tags/v1", apiPrefix+"repositories/mirror%2Fx/tags/"+escaped,
			apiPrefix+"repositories/mirror%2Fx/manifests/"+escaped, apiPrefix+"repositories?sort="+url.QueryEscape(name), apiPrefix+"repositories?"+url.QueryEscape(name)+"=1")
	}
	for _, path := range all {
		a := w.Get(t, path)
		if a.Status != http.StatusNotFound && a.Status != http.StatusBadRequest || a.ErrorCode() == "" {
			t.Errorf("%.100q: %d %.300s", path, a.Status, a.Body)
		}
	}
	if got := namesOf(tell(t, w, apiPrefix+"repositories?q="+url.QueryEscape("<script>")+"&block=%00&last=%FF")); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// A repository with 10,000 tags is listed page by page.
func TestAPIWithManyTags(t *testing.T) {
	testutil.Long(t, "writes 10,000 records")
	t.Parallel()
	dir := t.TempDir()
	store, err := disk.Open(filepath.Join(dir, "data"), disk.Options{})
	harness.Must(t, err)
	records, repo := catalog.New(store.Records(), catalog.Options{}), storage.RepoID{Namespace: "mirror", Name: "org/app"}
	var want []string
	for i := range 10_000 {
		want = append(want, fmt.Sprintf("v%05d", i))
		harness.Must(t, records.PutTag(t.Context(), repo, want[i], catalog.Tag{
			Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(want[i]), Size: 10}, Checked: time.Now(),
		}))
	}
	harness.Must(t, store.Close())
	w := harness.StartWeirIn(t, dir, block("mirror", upstreamtest.New(t)))
	expectInside(t, tell(t, w, apiPrefix+"repositories?sort=size"), map[string]string{"repositories.0.tags": "10000"})
	var got []string
	for path := apiPath("mirror/org/app", "/tags?n=1000"); path != "" && len(got) < 20_000; {
		document := tell(t, w, path)
		page := document["tags"].([]any)
		if len(page) > 1000 {
			t.Fatalf("a page of %d tags", len(page))
		}
		for _, tag := range page {
			got = append(got, tag.(string))
		}
		path, _ = document["next"].(string)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d tags are listed", len(got))
	}
}
