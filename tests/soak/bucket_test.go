package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
)

// bucket is a real server of an object store behind a proxy that fails on
// demand.
type bucket struct {
	*harness.Bucket
	t       *testing.T
	content *content
	broken  func(promise string) // is told of promises that a mirror has not kept
	front   *httptest.Server
	next    http.Handler
	fault   atomic.Pointer[bucketFault]
	lastLie atomic.Int64 // when a wrong byte was sent, in Unix nanoseconds
	evicted atomic.Int64 // objects

	mu      sync.Mutex
	left    map[string]bool   // keys of objects that a mirror has evicted, and none has written since
	planted map[[32]byte]bool // sums of the wrong objects that the soak wrote
}

// promised is the key of a context whose request has the URL of a redirect, and comes after the
// object was evicted.
type promised struct{}

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

func startBucket(t *testing.T, content *content, broken func(promise string)) *bucket {
	t.Helper()
	b := &bucket{Bucket: harness.StartBucket(t), t: t, content: content, broken: broken, left: make(map[string]bool), planted: make(map[[32]byte]bool)}
	b.Allow(t)
	target, err := url.Parse(b.URL)
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
		b.next.ServeHTTP(w, b.note(r))
	}
}

// note follows which objects a mirror evicts: with a request for several of them, while one that
// is damaged is removed by itself. While a URL is good, its object is not evicted.
func (b *bucket) note(r *http.Request) *http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := strings.TrimPrefix(r.URL.Path, "/mirror/")
	switch query := r.URL.Query(); {
	case r.Method == http.MethodPut || r.Method == http.MethodDelete:
		delete(b.left, key)
	case r.Method == http.MethodPost && query.Has("delete"):
		body, err := io.ReadAll(io.LimitReader(r.Body, 4*mib))
		if err != nil {
			panic(http.ErrAbortHandler) // the mirror was killed
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		for _, named := range keysOf.FindAllSubmatch(body, -1) {
			b.left[string(named[1])] = true
			b.evicted.Add(1)
		}
	case query.Has("X-Amz-Signature") && b.left[key]:
		return r.WithContext(context.WithValue(r.Context(), promised{}, key))
	}
	return r
}

var keysOf = regexp.MustCompile(`<Key>([^<]*)</Key>`)

// spoil changes the body of a blob.
func (b *bucket) spoil(answer *http.Response) error {
	if key := answer.Request.Context().Value(promised{}); key != nil && answer.StatusCode == http.StatusNotFound {
		b.broken(fmt.Sprintf("a client was led to %s, which was evicted", key))
	}
	f := b.fault.Load()
	if answer.Request.Method != http.MethodGet || !strings.Contains(answer.Request.URL.Path, "/blobs/") || answer.StatusCode >= http.StatusBadRequest {
		return nil
	}
	b.compare(answer)
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

// compare finds out whether the server itself sends wrong bytes, of a wrong object.
func (b *bucket) compare(answer *http.Response) {
	truth := b.content.bodies[digest.NewDigestFromEncoded(digest.SHA256, path.Base(answer.Request.URL.Path))]
	from, size := int64(0), answer.ContentLength
	if part := answer.Header.Get("Content-Range"); part != "" {
		var to int64
		if _, err := fmt.Sscanf(part, "bytes %d-%d/%d", &from, &to, &size); err != nil {
			b.t.Errorf("Content-Range %q: %v", part, err)
		}
	}
	if size != int64(len(truth)) || from > size {
		b.lastLie.Store(time.Now().UnixNano())
		return
	}
	answer.Body = &compared{ReadCloser: answer.Body, bucket: b, left: truth[from:]}
}

// compared is a body that tells of its first wrong byte.
type compared struct {
	io.ReadCloser
	bucket *bucket
	left   []byte // of the truth
}

func (c *compared) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if !bytes.HasPrefix(c.left, p[:n]) {
		c.bucket.lastLie.Store(time.Now().UnixNano())
	}
	c.left = c.left[min(n, len(c.left)):]
	return n, err
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

// objects calls visit with the file of each blob in the bucket.
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

// some calls change with the key of some objects.
func (b *bucket) some(change func(ctx context.Context, key string) error) {
	b.objects(func(path string) {
		if rand.IntN(3) != 0 {
			return
		}
		key, err := filepath.Rel(b.Dir, path)
		if err == nil {
			err = change(b.t.Context(), filepath.ToSlash(key))
		}
		if err != nil && minio.ToErrorResponse(err).Code != "NoSuchKey" { // it was removed just now
			b.t.Error(err)
		}
	})
}

// expire removes some objects, as rules of the operator do.
func (b *bucket) expire() {
	b.some(func(ctx context.Context, key string) error {
		b.mu.Lock()
		delete(b.left, key)
		b.mu.Unlock()
		return b.Owner.RemoveObject(ctx, "mirror", key, minio.RemoveObjectOptions{})
	})
}

// plant replaces some objects by wrong ones, of which each has a byte changed, is cut, or is longer.
func (b *bucket) plant() {
	b.some(func(ctx context.Context, key string) error {
		wrong := slices.Clone(b.content.bodies[digest.NewDigestFromEncoded(digest.SHA256, path.Base(key))])
		switch rand.IntN(3) {
		case 0:
			wrong[rand.IntN(len(wrong))] ^= 0x20
		case 1:
			wrong = wrong[:len(wrong)/2]
		default:
			wrong = append(wrong, 0)
		}
		b.mu.Lock()
		b.planted[sha256.Sum256(wrong)] = true
		b.mu.Unlock()
		_, err := b.Owner.PutObject(ctx, "mirror", key, bytes.NewReader(wrong), int64(len(wrong)), minio.PutObjectOptions{})
		return err
	})
}

// wrong returns the objects whose content does not match their key, but for those that the soak
// has planted and no mirror has replaced. It returns the numbers of those, and of all.
func (b *bucket) wrong() (keys []string, planted, number int) {
	b.objects(func(path string) {
		body, err := os.ReadFile(path)
		if err != nil {
			return // it was removed just now
		}
		number++
		sum := sha256.Sum256(body)
		b.mu.Lock()
		isPlanted := b.planted[sum]
		b.mu.Unlock()
		switch {
		case hex.EncodeToString(sum[:]) == filepath.Base(path):
		case isPlanted:
			planted++
		default:
			keys = append(keys, path)
		}
	})
	return keys, planted, number
}

// bytes returns the bytes of all content.
func (b *bucket) bytes() (sum int64) {
	b.objects(func(path string) {
		if info, err := os.Stat(path); err == nil {
			sum += info.Size()
		}
	})
	return sum
}

// bucket returns the deck of the bucket. A mirror that is not allowed to evict does not try again for
// an hour, so permissions are missing in the first third of the time only.
func (m *troublemaker) bucket(f *fleet) []trouble {
	b := f.bucket
	under := func(name string, f bucketFault) trouble {
		return trouble{name: "bucket " + name, begin: func() { b.set(f) }, end: func() { b.set(bucketFault{}) }}
	}
	permitted := func() bool { return time.Since(f.started) > f.duration/3 }
	restricted := func(t trouble) trouble {
		end := t.end
		t.over = permitted
		t.end = func() { end(); f.evictor.restart() }
		return t
	}
	without := func(action string) trouble {
		return restricted(trouble{name: "bucket does not permit " + action, begin: func() { b.Allow(b.t, action) }, end: func() { b.Allow(b.t) }})
	}
	return []trouble{
		under("answers 500", bucketFault{status: http.StatusInternalServerError, code: "InternalError"}),
		under("says SlowDown", bucketFault{status: http.StatusServiceUnavailable, code: "SlowDown"}),
		restricted(under("denies access", bucketFault{status: http.StatusForbidden, code: "AccessDenied"})),
		without("s3:DeleteObject"), without("s3:PutObject"), without("s3:ListBucket"),
		under("hangs", bucketFault{hangs: true}),
		under("cuts bodies", bucketFault{cut: true}),
		under("corrupts a byte of each body", bucketFault{corrupt: true}),
		{name: "bucket killed", begin: b.Kill, end: func() { b.Start() }},
		{name: "bucket loses objects", begin: b.expire},
		{name: "bucket has wrong objects", begin: b.plant},
	}
}
