// Package s3test is a server of an object store in memory, which misbehaves on demand.
//
// It knows the requests of package s3 and checks no signature. A test wraps its handler
// ([Server.Intercept]) for each trouble that it wants.
package s3test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Bucket is the name of the bucket that a server has.
const Bucket = "mirror"

// Object is an object of the bucket.
type Object struct {
	Content  []byte
	Modified time.Time
}

// Server is an object store with one bucket. Its methods may be called concurrently.
type Server struct {
	URL string

	mu        sync.Mutex
	missing   bool // the bucket
	objects   map[string]Object
	uploads   map[string]map[int][]byte // parts, by the identifier of the upload
	lifecycle []byte
	requests  []string
	intercept func(http.Handler) http.Handler
}

// New starts a server, which ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{objects: make(map[string]Object), uploads: make(map[string]map[int][]byte)}
	server := httptest.NewServer(s)
	s.URL = server.URL
	t.Cleanup(server.Close)
	return s
}

// Endpoint returns the URL of the server.
func (s *Server) Endpoint(t testing.TB) *url.URL {
	t.Helper()
	endpoint, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return endpoint
}

// Config is the table of the bucket in a configuration, with further settings, one line
// each.
func (s *Server) Config(settings ...string) string {
	return fmt.Sprintf("[blob_store.s3]\nendpoint = %q\nbucket = %q\nregion = \"us-east-1\"\naccess_key_id = \"key\"\nsecret_key = \"secret\"\n%s\n",
		s.URL, Bucket, strings.Join(settings, "\n"))
}

// RemoveBucket makes the bucket missing, until a request makes it.
func (s *Server) RemoveBucket() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing = true
	clear(s.objects)
}

// Intercept puts a handler in front of the server, in place of the one before; nil removes
// it.
func (s *Server) Intercept(wrap func(next http.Handler) http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.intercept = wrap
}

// FailIf answers requests that match with an error of S3.
func (s *Server) FailIf(match func(*http.Request) bool, status int, code string) {
	s.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) {
				Fail(w, status, code)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
}

// Put stores an object.
func (s *Server) Put(key string, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[key] = Object{content, time.Now()}
}

// Get returns an object.
func (s *Server) Get(key string) (Object, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	object, ok := s.objects[key]
	return object, ok
}

// Delete removes an object.
func (s *Server) Delete(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, key)
}

// Keys returns the keys that begin with a prefix, in their order.
func (s *Server) Keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Requests returns the requests so far, as "METHOD key?query", and forgets them.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+Bucket), "/")
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSuffix(r.Method+" "+key+"?"+r.URL.RawQuery, "?"))
	var handler http.Handler = http.HandlerFunc(s.serve)
	if s.intercept != nil {
		handler = s.intercept(handler)
	}
	s.mu.Unlock()
	handler.ServeHTTP(w, r)
}

// Fail answers with an error of S3.
func Fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>for a test</Message></Error>`, code)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 { // Amazon S3 wants to know the length of each body
		Fail(w, http.StatusNotImplemented, "NotImplemented")
		return
	}
	body, err := readBody(r)
	if err != nil {
		Fail(w, http.StatusBadRequest, "IncompleteBody")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case bucket != Bucket || s.missing && (r.Method != http.MethodPut || key != ""):
		Fail(w, http.StatusNotFound, "NoSuchBucket")
	case key == "":
		s.serveBucket(w, r, body)
	case r.URL.Query().Has("uploads") || r.URL.Query().Has("uploadId"):
		s.serveUpload(w, r, key, body)
	default:
		s.serveObject(w, r, key, body)
	}
}

// serveBucket answers requests for the bucket itself. The caller holds the mutex.
func (s *Server) serveBucket(w http.ResponseWriter, r *http.Request, body []byte) {
	query := r.URL.Query()
	switch {
	case query.Has("lifecycle") && r.Method == http.MethodPut:
		s.lifecycle = body
	case query.Has("lifecycle") && s.lifecycle == nil:
		Fail(w, http.StatusNotFound, "NoSuchLifecycleConfiguration")
	case query.Has("lifecycle"):
		_, _ = w.Write(s.lifecycle)
	case query.Has("delete") && r.Method == http.MethodPost:
		s.deleteAll(w, body)
	case r.Method == http.MethodPut:
		s.missing = false
	case query.Has("location"):
		fmt.Fprint(w, `<LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/">us-east-1</LocationConstraint>`)
	case r.Method == http.MethodGet:
		s.list(w, query)
	}
}

// deleteAll answers DeleteObjects. The caller holds the mutex.
func (s *Server) deleteAll(w http.ResponseWriter, body []byte) {
	var request struct {
		Objects []struct{ Key string } `xml:"Object"`
	}
	if err := xml.Unmarshal(body, &request); err != nil || len(request.Objects) > 1000 {
		Fail(w, http.StatusBadRequest, "MalformedXML")
		return
	}
	var answer struct {
		XMLName xml.Name `xml:"DeleteResult"`
		Deleted []struct{ Key string }
	}
	for _, object := range request.Objects {
		delete(s.objects, object.Key)
		answer.Deleted = append(answer.Deleted, struct{ Key string }{object.Key})
	}
	_ = xml.NewEncoder(w).Encode(answer) // a client that has left needs none
}

// listing is the answer to ListObjectsV2.
type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	EncodingType          string
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []listed
	CommonPrefixes        []commonPrefix
}

type listed struct {
	Key          string
	LastModified string
	Size         int
}

type commonPrefix struct{ Prefix string }

func (s *Server) list(w http.ResponseWriter, query url.Values) {
	prefix, delimiter := query.Get("prefix"), query.Get("delimiter")
	after := cmp.Or(query.Get("continuation-token"), query.Get("start-after"))
	limit, err := strconv.Atoi(query.Get("max-keys"))
	if err != nil || limit <= 0 || limit > 1000 {
		limit = 1000
	}
	answer, common := listing{EncodingType: "url"}, ""
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after || common != "" && strings.HasPrefix(key, common) {
			continue
		}
		if len(answer.Contents)+len(answer.CommonPrefixes) == limit {
			answer.IsTruncated = true
			break
		}
		answer.NextContinuationToken = key
		if at := strings.Index(key[len(prefix):], delimiter); delimiter != "" && at >= 0 {
			common = key[:len(prefix)+at+1]
			answer.NextContinuationToken = common + "\xff"
			answer.CommonPrefixes = append(answer.CommonPrefixes, commonPrefix{url.QueryEscape(common)})
			continue
		}
		object := s.objects[key]
		answer.Contents = append(answer.Contents, listed{url.QueryEscape(key), object.Modified.UTC().Format("2006-01-02T15:04:05.000Z"), len(object.Content)})
	}
	if !answer.IsTruncated {
		answer.NextContinuationToken = ""
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(answer) // a client that has left needs none
}

// serveUpload answers the requests of an upload in parts. The caller holds the mutex.
func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	id := r.URL.Query().Get("uploadId")
	switch {
	case r.URL.Query().Has("uploads"):
		id = strconv.Itoa(len(s.uploads) + 1)
		s.uploads[id] = make(map[int][]byte)
		fmt.Fprintf(w, `<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>`, id)
	case s.uploads[id] == nil:
		Fail(w, http.StatusNotFound, "NoSuchUpload")
	case r.Method == http.MethodPut:
		number, _ := strconv.Atoi(r.URL.Query().Get("partNumber")) // 0 is stored too
		s.uploads[id][number] = body
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodDelete:
		delete(s.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	case r.Header.Get("If-None-Match") == "*" && s.has(key):
		Fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		var whole []byte
		for _, number := range slices.Sorted(maps.Keys(s.uploads[id])) {
			whole = append(whole, s.uploads[id][number]...)
		}
		delete(s.uploads, id)
		s.objects[key] = Object{whole, time.Now()}
		fmt.Fprintf(w, `<CompleteMultipartUploadResult><Bucket>%s</Bucket><ETag>%s</ETag></CompleteMultipartUploadResult>`, Bucket, etag(whole))
	}
}

func (s *Server) has(key string) bool {
	_, ok := s.objects[key]
	return ok
}

// serveObject answers requests for one object. The caller holds the mutex.
func (s *Server) serveObject(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	object, there := s.objects[key]
	switch {
	case r.Method == http.MethodPut && there && r.Header.Get("If-None-Match") == "*":
		Fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Method == http.MethodPut && r.Header.Get("If-Match") != "" && (!there || r.Header.Get("If-Match") != etag(object.Content)):
		Fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Method == http.MethodPut:
		s.objects[key] = Object{body, time.Now()}
		w.Header().Set("ETag", etag(body))
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case !there:
		Fail(w, http.StatusNotFound, "NoSuchKey")
	default:
		w.Header().Set("ETag", etag(object.Content))
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", object.Modified, bytes.NewReader(object.Content))
	}
}

func etag(content []byte) string {
	sum := md5.Sum(content)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// readBody reads the body of a request, and takes the signatures out of it that clients
// without TLS put before each chunk.
func readBody(r *http.Request) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-") {
		return io.ReadAll(r.Body)
	}
	var content bytes.Buffer
	for reader := bufio.NewReaderSize(r.Body, 64<<10); ; {
		line, err := reader.ReadString('\n')
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(size, 16, 64)
		if err != nil || n == 0 {
			return content.Bytes(), err // the trailer says nothing that a test needs
		}
		if _, err := io.CopyN(&content, reader, n); err != nil {
			return nil, err
		}
		if _, err := reader.Discard(len("\r\n")); err != nil {
			return nil, err
		}
	}
}
