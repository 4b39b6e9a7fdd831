package upstreamtest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serveRegistry answers the requests to the registry's own host.
func (r *Registry) serveRegistry(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" && r.config.bearer != nil {
		r.serveToken(w, req)
		return
	}
	if strings.HasPrefix(req.URL.Path, "/cdn/") && r.config.cdn != nil {
		r.serveCDN(w, req)
		return
	}
	rec := r.record(serverRegistry, w, req)
	p := r.plan(req)
	if p.intercept(rec, req) {
		return
	}
	name, kind, ref := splitPath(req.URL.Path)
	switch {
	case !r.authorized(rec, req, name):
	case r.config.redirectTo != nil:
		target := *r.config.redirectTo.URL
		target.Path, target.RawQuery = req.URL.Path, req.URL.RawQuery
		http.Redirect(rec, req, target.String(), http.StatusTemporaryRedirect)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		refuse(rec, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is for reading")
	case req.URL.Path == "/v2/":
		p.write(rec, req, bytes.NewReader([]byte("{}")))
	case kind == "manifests":
		r.serveManifest(rec, req, p, name, ref)
	case kind == "blobs":
		r.serveBlob(rec, req, p, name, ref)
	case kind == "tags":
		r.serveTags(rec, req, p, name)
	case kind == "referrers" && !r.config.noReferrers:
		r.serveReferrers(rec, req, p, name, ref)
	default:
		http.NotFound(rec, req)
	}
}

// splitPath takes /v2/<name>/<kind>/<ref> apart.
func splitPath(path string) (name, kind, ref string) {
	segments := strings.Split(strings.TrimPrefix(path, "/v2/"), "/")
	if n := len(segments); n >= 3 {
		return strings.Join(segments[:n-2], "/"), segments[n-2], segments[n-1]
	}
	return "", "", ""
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, p *plan, name, ref string) {
	r.mu.Lock()
	repository := r.repository(name)
	dgst, err := digest.Parse(ref)
	if err != nil {
		dgst = repository.tags[ref]
	}
	m, ok := repository.manifests[dgst]
	r.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", m.MediaType)
	w.Header().Set("Docker-Content-Digest", m.Digest.String())
	p.write(w, req, bytes.NewReader(m.body))
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, p *plan, name, ref string) {
	r.mu.Lock()
	blob, ok := r.repository(name).blobs[digest.Digest(ref)]
	r.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	if r.config.cdn != nil && req.Method == http.MethodGet {
		http.Redirect(w, req, r.sign(name, ref), http.StatusTemporaryRedirect)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", ref)
	if r.config.gzip && !strings.Contains(req.Header.Get("Accept-Encoding"), "identity") {
		blob = compress(blob)
		w.Header().Set("Content-Encoding", "gzip")
	}
	p.write(w, req, blob)
}

func compress(c content) content {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.Copy(z, io.NewSectionReader(c, 0, c.Size()))
	z.Close()
	return bytes.NewReader(b.Bytes())
}

func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, p *plan, name string) {
	r.mu.Lock()
	tags := slices.Sorted(maps.Keys(r.repository(name).tags))
	r.mu.Unlock()
	if len(tags) == 0 {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		return
	}
	query := req.URL.Query()
	start, found := slices.BinarySearch(tags, query.Get("last"))
	if found {
		start++
	}
	tags = tags[start:]
	if n, err := strconv.Atoi(query.Get("n")); err == nil && n < len(tags) {
		tags = tags[:n]
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {tags[max(0, n-1)]}}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, name, next.Encode()))
	}
	w.Header().Set("Content-Type", "application/json")
	p.write(w, req, bytes.NewReader(r.marshal(map[string]any{"name": name, "tags": tags})))
}

func (r *Registry) serveReferrers(w http.ResponseWriter, req *http.Request, p *plan, name, ref string) {
	artifactType := req.URL.Query().Get("artifactType")
	if r.config.filterIgnored {
		artifactType = ""
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	p.write(w, req, bytes.NewReader(r.marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: r.referrers(name, digest.Digest(ref), artifactType),
	})))
}

// referrers lists the manifests that refer to subject, by digest.
func (r *Registry) referrers(name string, subject digest.Digest, artifactType string) []ocispec.Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []ocispec.Descriptor{}
	for _, m := range r.repository(name).manifests {
		if m.subject == subject && (artifactType == "" || m.ArtifactType == artifactType) {
			list = append(list, m.Descriptor)
		}
	}
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return list
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}
