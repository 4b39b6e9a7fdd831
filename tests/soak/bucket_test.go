package soak

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/weirhq/weir/tests/harness"
)

// bucket is a real server of an object store behind a proxy that fails on
// demand.
type bucket struct {
	*harness.Bucket
	t       *testing.T
	client  *minio.Client // without the proxy
	front   *httptest.Server
	next    http.Handler
	fault   atomic.Pointer[bucketFault]
	lastLie atomic.Int64 // when a byte was changed, in Unix nanoseconds
}

// bucketFault is how the bucket's answers differ.
type bucketFault struct {
	status  int    // of each answer; 0: the server's
	code    string // of the error
	hangs   bool   // no answer comes
	cut     bool   // bodies of content break off
	corrupt bool   // a byte of each body of content is changed
	over    chan struct{}
}

// cutAt is how much of a body passes before it breaks off.
const cutAt = 96 * kib

func startBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{Bucket: harness.StartBucket(t), t: t}
	target, err := url.Parse(b.URL)
	harness.Must(t, err)
	b.client, err = minio.New(target.Host, &minio.Options{Creds: credentials.NewStaticV4(harness.BucketKey, harness.BucketSecret, "")})
	harness.Must(t, err)
	quiet := log.New(io.Discard, "", 0) // broken connections are what the soak is about
	b.fault.Store(&bucketFault{over: make(chan struct{})})
	b.next = &httputil.ReverseProxy{
		// The Host is signed, and stays.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: b.spoil,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:       quiet,
	}
	b.front = httptest.NewUnstartedServer(b)
	b.front.Config.ErrorLog = quiet
	b.front.Start()
	t.Cleanup(func() {
		b.set(bucketFault{})
		b.front.CloseClientConnections()
		b.front.Close()
	})
	b.URL = b.front.URL // for Config
	return b
}

// set changes how answers differ, also those that are awaited.
func (b *bucket) set(f bucketFault) {
	f.over = make(chan struct{})
	close(b.fault.Swap(&f).over)
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch f := b.fault.Load(); {
	case f.hangs:
		select {
		case <-f.over:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case f.status != 0:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(f.status)
		_, _ = io.WriteString(w, "<Error><Code>"+f.code+"</Code><Message>the soak says so</Message></Error>")
	default:
		b.next.ServeHTTP(w, r)
	}
}

// spoil changes the body of a content.
func (b *bucket) spoil(answer *http.Response) error {
	f := b.fault.Load()
	if answer.Request.Method != http.MethodGet || !strings.Contains(answer.Request.URL.Path, "/blobs/") || answer.StatusCode >= http.StatusBadRequest {
		return nil
	}
	switch {
	case f.corrupt:
		b.lastLie.Store(time.Now().UnixNano())
		answer.Body = &spoiled{ReadCloser: answer.Body, bucket: b, at: rand.Int64N(max(answer.ContentLength, 1))}
	case f.cut:
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(answer.Body, cutAt), broken{}), answer.Body}
	}
	return nil
}

// broken is a connection that broke.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the soak cuts the body") }

// spoiled is a body with one wrong byte.
type spoiled struct {
	io.ReadCloser
	bucket *bucket
	at     int64
}

func (s *spoiled) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if s.at >= 0 && s.at < int64(n) {
		p[s.at] ^= 0x20
		s.bucket.lastLie.Store(time.Now().UnixNano())
	}
	s.at -= int64(n)
	return n, err
}

// objects calls visit with the file of each content in the bucket.
func (b *bucket) objects(visit func(path string)) {
	err := filepath.WalkDir(filepath.Join(b.Dir, "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			visit(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		b.t.Error(err)
	}
}

// expire removes some objects, as rules of the operator do.
func (b *bucket) expire() {
	b.objects(func(path string) {
		if rand.IntN(3) != 0 {
			return
		}
		key, err := filepath.Rel(b.Dir, path)
		if err == nil {
			err = b.client.RemoveObject(b.t.Context(), "mirror", filepath.ToSlash(key), minio.RemoveObjectOptions{})
		}
		if err != nil {
			b.t.Error(err)
		}
	})
}

// wrong returns the objects whose content does not match their key.
func (b *bucket) wrong() (keys []string, number int) {
	b.objects(func(path string) {
		body, err := os.ReadFile(path)
		if err != nil {
			return // it was removed just now
		}
		number++
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != filepath.Base(path) {
			keys = append(keys, path)
		}
	})
	return keys, number
}

// troubles returns the deck of the bucket.
func (m *troublemaker) bucket(b *bucket) []trouble {
	under := func(name string, f bucketFault) trouble {
		return trouble{name: "bucket " + name, begin: func() { b.set(f) }, end: func() { b.set(bucketFault{}) }}
	}
	return []trouble{
		under("answers 500", bucketFault{status: http.StatusInternalServerError, code: "InternalError"}),
		under("says SlowDown", bucketFault{status: http.StatusServiceUnavailable, code: "SlowDown"}),
		under("denies access", bucketFault{status: http.StatusForbidden, code: "AccessDenied"}),
		under("hangs", bucketFault{hangs: true}),
		under("cuts bodies", bucketFault{cut: true}),
		under("corrupts a byte of each body", bucketFault{corrupt: true}),
		{name: "bucket killed", begin: b.Kill, end: func() { b.Start() }},
		{name: "bucket loses objects", begin: b.expire},
	}
}
