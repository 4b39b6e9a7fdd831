package hostile

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// latency and pause make the network of an honest registry: a pull waits for it far
	// longer than it computes, as real ones do, so that a busy machine changes its
	// time little.
	latency = 300 * time.Millisecond
	pause   = 12 * time.Millisecond // before each write of 32 KiB

	username = "puller"
	password = "correct horse battery"
	token    = "an-honest-token"
)

// registry is an honest registry of one repository. A guarded one wants tokens, which its
// token service gives for credentials, and redirects blobs to its CDN.
type registry struct {
	content *content
	server  *httptest.Server
	cdn     *httptest.Server // nil: it serves blobs itself
}

func startRegistry(t *testing.T, name string, guarded bool) *registry {
	r := &registry{content: newContent(name)}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	if guarded {
		r.cdn = httptest.NewServer(http.HandlerFunc(r.deliver))
		t.Cleanup(r.cdn.Close)
	}
	return r
}

// hangUp closes the connections of the mirror.
func (r *registry) hangUp() {
	r.server.CloseClientConnections()
	if r.cdn != nil {
		r.cdn.CloseClientConnections()
	}
}

// ServeHTTP is the registry with its token service.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	time.Sleep(latency)
	if req.URL.Path == "/token" {
		if name, secret, _ := req.BasicAuth(); name != username || secret != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
		return
	}
	if r.cdn != nil && req.Header.Get("Authorization") != "Bearer "+token {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="honest"`, r.server.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	repo, kind, ref := parse(req.URL.Path)
	switch {
	case repo != "app":
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN")
	case kind == "manifests":
		r.manifest(w, req, ref)
	case kind == "blobs" && r.cdn != nil:
		http.Redirect(w, req, r.cdn.URL+req.URL.Path, http.StatusTemporaryRedirect)
	case kind == "blobs":
		r.deliver(w, req)
	case kind == "tags":
		fmt.Fprint(w, `{"name":"app","tags":["w0","w1","w2"]}`)
	default:
		refuse(w, http.StatusNotFound, "UNSUPPORTED")
	}
}

func (r *registry) manifest(w http.ResponseWriter, req *http.Request, ref string) {
	dgst := digest.Digest(ref)
	if i := r.content.image(ref); i != nil {
		dgst = i.manifest
	}
	body := r.content.body(dgst)
	if body == nil {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", dgst.String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(body))
}

// deliver sends a blob. It is the CDN too.
func (r *registry) deliver(w http.ResponseWriter, req *http.Request) {
	_, _, ref := parse(req.URL.Path)
	body := r.content.body(digest.Digest(ref))
	if body == nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(paced{w}, req, "", time.Time{}, bytes.NewReader(body))
}

// paced is an answer over a network of a limited bandwidth.
type paced struct{ http.ResponseWriter }

func (p paced) Write(b []byte) (int, error) {
	time.Sleep(pause)
	return p.ResponseWriter.Write(b)
}

// parse returns the parts of /v2/<repo>/<kind>/<ref>.
func parse(path string) (repo, kind, ref string) {
	parts := strings.Split(strings.TrimPrefix(path, "/v2/"), "/")
	if len(parts) < 3 {
		return "", "", ""
	}
	last := len(parts) - 2
	return strings.Join(parts[:last], "/"), parts[last], parts[last+1]
}

// refuse answers with an error of the specification.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"no"}]}`, code)
}
