package upstreamtest

import (
	"fmt"
	"net/http"
	"strings"
)

// The servers of a Registry.
const (
	serverRegistry = "registry"
	serverToken    = "token"
	serverCDN      = "cdn"
)

// Record is one request that a server received.
type Record struct {
	Server            string // "registry", "token" or "cdn"
	Method            string
	URI               string // path and query
	Header            http.Header
	Proto             string // "HTTP/1.1" or "HTTP/2.0"
	ClientCertificate bool   // the client showed one
	Status            int    // 0 before the answer, and if the connection was dropped instead
}

// String is, for instance, "GET /v2/x/blobs/sha256:... bytes=10- 206".
func (r Record) String() string {
	parts := []string{r.Method, r.URI}
	if byteRange := r.Header.Get("Range"); byteRange != "" {
		parts = append(parts, byteRange)
	}
	return strings.Join(append(parts, fmt.Sprint(r.Status)), " ")
}

// Requests returns the requests to the registry, in the order of arrival.
func (r *Registry) Requests() []string { return r.requests(serverRegistry) }

// TokenRequests returns the requests to the token service.
func (r *Registry) TokenRequests() []string { return r.requests(serverToken) }

// CDNRequests returns the requests to the CDN, without signatures.
func (r *Registry) CDNRequests() []string { return r.requests(serverCDN) }

func (r *Registry) requests(server string) []string {
	list := []string{}
	for _, record := range r.Log() {
		if record.Server == server {
			list = append(list, record.String())
		}
	}
	return list
}

// Log returns all requests to all servers in the order of arrival.
func (r *Registry) Log() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Record, len(r.log))
	for i, record := range r.log {
		list[i] = *record
	}
	return list
}

// Authorizations returns the Authorization header of each request to the
// registry, "" for a request without one.
func (r *Registry) Authorizations() []string {
	list := []string{}
	for _, record := range r.Log() {
		if record.Server == serverRegistry {
			list = append(list, record.Header.Get("Authorization"))
		}
	}
	return list
}

// ResetRequests forgets the requests so far.
func (r *Registry) ResetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = nil
}

// record notes a request. Its status follows through the returned writer.
func (r *Registry) record(server string, w http.ResponseWriter, req *http.Request) *recorder {
	record := &Record{Server: server, Method: req.Method, URI: req.URL.RequestURI(), Header: req.Header.Clone(), Proto: req.Proto,
		ClientCertificate: req.TLS != nil && len(req.TLS.PeerCertificates) > 0}
	if server == serverCDN {
		record.URI = req.URL.Path
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, record)
	return &recorder{ResponseWriter: w, registry: r, record: record}
}

// recorder notes the status before the client can see it.
type recorder struct {
	http.ResponseWriter
	registry *Registry
	record   *Record
}

func (w *recorder) WriteHeader(status int) {
	w.registry.mu.Lock()
	if w.record.Status == 0 {
		w.record.Status = status
	}
	w.registry.mu.Unlock()
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
