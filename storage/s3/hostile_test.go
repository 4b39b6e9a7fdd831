package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/storage/storagetest"
)

// always answers each request with one handler.
func always(answer http.HandlerFunc) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler { return answer }
}

// endless writes a text again and again, and counts its bytes.
func endless(w io.Writer, text string, written *atomic.Int64) {
	block := []byte(strings.Repeat(text, 64<<10/len(text)+1))
	for written.Load() < 1<<30 {
		n, err := w.Write(block)
		written.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// No answer of a server makes a call wait for ever, read without end, or report a wrong result.
func TestHostileAnswers(t *testing.T) {
	testutil.Long(t, "reads endless answers up to their bounds")
	const page = `<?xml version="1.0"?><ListBucketResult>`
	// A success that proves nothing. The next reading shows the object.
	successes := []string{"a web page", "garbage", "a body of no length", "an endless page", "endless values", "an absurd length"}
	var written atomic.Int64
	for name, answer := range map[string]http.HandlerFunc{
		"nothing":             func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a web page":          func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>log in</html>") },
		"garbage":             func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "\x00\xff<<<") },
		"500":                 func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, 500, "InternalError") },
		"an empty 500":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"SlowDown":            func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, 503, "SlowDown") },
		"an endless error":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); endless(w, "<Error>", &written) },
		"an endless page":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page); endless(w, "<Contents>", &written) },
		"endless values":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page+"<Name>"); endless(w, "x", &written) },
		"an endless header":   func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Long", strings.Repeat("x", 1<<20)) },
		"a body of no length": func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush(); endless(w, "x", &written) },
		"a redirect": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(307)
		},
		"an absurd length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9223372036854775807")
			w.WriteHeader(200)
		},
	} {
		t.Run(name, func(t *testing.T) {
			written.Store(0)
			server := s3test.New(t)
			dgst := digest.FromString("content")
			// A store of its own for each call, since failures stop the requests.
			for call, do := range map[string]func(ctx context.Context, s *s3.Store) error{
				"Upload": func(ctx context.Context, s *s3.Store) error {
					return s.Upload(ctx, storage.Info{Digest: dgst, Size: 7}, strings.NewReader("content"))
				},
				"OpenAt": func(ctx context.Context, s *s3.Store) error {
					body, size, err := s.OpenAt(ctx, dgst, 3)
					if err == nil {
						body.Close()
						return fmt.Errorf("a body of %d bytes", size)
					}
					return nil
				},
				"Records.Get": func(ctx context.Context, s *s3.Store) error {
					if document, err := s.Records().Get(ctx, "a/key"); err == nil && len(document) > 1<<20 {
						return fmt.Errorf("a record of %d bytes", len(document))
					}
					return nil
				},
				"Records.List": func(ctx context.Context, s *s3.Store) error {
					for key, err := range s.Records().List(ctx, "") {
						if err == nil {
							return fmt.Errorf("the key %q", key)
						}
					}
					return nil
				},
				"All": func(ctx context.Context, s *s3.Store) error {
					for entry, err := range s.All(ctx) {
						if err == nil {
							return fmt.Errorf("the entry %v", entry)
						}
					}
					return nil
				},
				"Survey": func(ctx context.Context, s *s3.Store) error { s.Survey(ctx); return nil },
			} {
				// An answer without end costs the time of its bound, and these read it as others do.
				if strings.Contains(name, "endless") && (call == "All" || call == "Survey") {
					continue
				}
				store := open(t, server, func(o *s3.Options) { o.AttemptTimeout = 10 * time.Second })
				server.Intercept(always(answer))
				err := do(t.Context(), store)
				switch {
				case call != "Upload" && err != nil:
					t.Errorf("%s: %v", call, err)
				case call == "Upload" && err == nil && !slices.Contains(successes, name):
					t.Error("an upload counts as done")
				}
			}
			if n := written.Load(); n > 256<<20 {
				t.Errorf("%d MiB were read", n>>20)
			}
		})
	}
}

// A body is that of the range that was asked for, and ends where it was announced to end.
func TestBodies(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	dgst := digest.FromBytes(content)
	part := func(header string, body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", header)
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			w.Header().Set("ETag", `"x"`)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(body)
		}
	}
	for name, tc := range map[string]struct {
		answer http.HandlerFunc // nil: the right one
		ok     bool
	}{
		"right":              {nil, true},
		"another range":      {part("bytes 6-9999/10000", content[6:]), false},
		"no range":           {part("", content[5:]), false},
		"an odd range":       {part("bytes 5-/10000", content[5:]), false},
		"a shorter whole":    {part("bytes 5-9999/7", content[5:]), false},
		"a range before":     {part("bytes 0-9999/10000", content), false},
		"a negative one":     {part("bytes 5--1/-1", content[5:]), false},
		"the whole with 200": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) }, false},
		"a body that is cut": {part("bytes 5-9999/10000", content[5:100]), false},
		"a longer body":      {part("bytes 5-9999/10000", append(bytes.Clone(content[5:]), "more"...)), true}, // the rest is not read
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			store := open(t, server, nil)
			storagetest.Commit(t, store, store.Spools(), content)
			if tc.answer != nil {
				server.Intercept(always(tc.answer))
			}
			body, size, err := store.OpenAt(t.Context(), dgst, 5)
			var got []byte
			if err == nil {
				got, err = io.ReadAll(body)
				body.Close()
			}
			if tc.ok != (err == nil) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if tc.ok && (size != int64(len(content)) || !bytes.Equal(got, content[5:])) {
				t.Errorf("%d bytes of %d", len(got), size)
			}
		})
	}
}

// Objects of others below the prefix and beside it are no content and no records.
func TestForeignKeys(t *testing.T) {
	server := s3test.New(t)
	store := open(t, server, nil)
	ours := storagetest.Commit(t, store, store.Spools(), []byte("content"))
	if err := store.Records().Put(t.Context(), "a/key", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	hex := digest.FromString("x").Encoded()
	foreign := []string{
		"other", "mirrors/weir2/blobs/sha256/aa/" + hex, "mirrors/weir/blobs/sha256/" + hex, "mirrors/weir/blobs/sha256/00/" + hex, "mirrors/weir/blobs/md5/aa/aa",
		"mirrors/weir/blobs/x", "mirrors/weir/records/../up", "mirrors/weir/records/a b", "mirrors/weir/records/a!2", "mirrors/weir/records//x", "mirrors/weir/_uploads/1",
	}
	for _, key := range foreign {
		server.Put(key, []byte("foreign"))
	}
	for entry, err := range store.All(t.Context()) {
		if err != nil || entry.Digest != ours {
			t.Errorf("All: %v, %v", entry, err)
		}
	}
	for key, err := range store.Records().List(t.Context(), "") {
		if err != nil || key != "a/key" {
			t.Errorf("List: %q, %v", key, err)
		}
	}
	store.Survey(t.Context())
	for _, key := range foreign {
		if _, ok := server.Get(key); !ok {
			t.Errorf("%s is gone", key)
		}
	}
}

// An upload sends no content that is there, replaces wrong objects, and believes no refusal.
func TestUpload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16) // two parts
	dgst := digest.FromBytes(content)
	key := "mirrors/weir/blobs/sha256/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()
	conditional := func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }
	for name, tc := range map[string]struct {
		prepare func(*s3test.Server)
		puts    bool // bytes are sent
	}{
		"new":                    {func(*s3test.Server) {}, true},
		"there":                  {func(s *s3test.Server) { s.Put(key, content) }, false},
		"cut":                    {func(s *s3test.Server) { s.Put(key, content[:9]) }, true},
		"no conditions: 501":     {func(s *s3test.Server) { s.FailIf(conditional, 501, "NotImplemented") }, true},
		"another is faster: 412": {func(s *s3test.Server) { faster(s, key, content, 412, "PreconditionFailed") }, false},
		"another is faster: 409": {func(s *s3test.Server) { faster(s, key, content, 409, "ConditionalRequestConflict") }, false},
		// The object was removed in between, or the server errs.
		"412 for nothing":               {func(s *s3test.Server) { s.FailIf(conditional, 412, "PreconditionFailed") }, true},
		"412 without words for nothing": {func(s *s3test.Server) { s.FailIf(conditional, 412, "") }, true},
		"a liar is faster":              {func(s *s3test.Server) { faster(s, key, content[:5], 412, "PreconditionFailed") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			store := open(t, server, func(o *s3.Options) { o.PartSize = 5 << 20 })
			tc.prepare(server)
			storagetest.Commit(t, store, store.Spools(), content)
			if object, _ := server.Get(key); !bytes.Equal(object.Content, content) {
				t.Errorf("the object has %d bytes, want %d", len(object.Content), len(content))
			}
			if puts := strings.Contains(strings.Join(server.Requests(), "\n"), "PUT "); puts != tc.puts {
				t.Errorf("bytes were sent: %v, want %v", puts, tc.puts)
			}
		})
	}
}

// An upload that meets another one which has not ended, or an object that cannot be seen, fails,
// and is the caller's to repeat. It replaces nothing.
func TestUploadBesideAnother(t *testing.T) {
	for code, status := range map[string]int{"ConditionalRequestConflict": 409, "OperationAborted": 409} {
		server := s3test.New(t)
		store := open(t, server, nil)
		server.FailIf(func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }, status, code)
		dgst := digest.FromString("content")
		err := store.Upload(t.Context(), storage.Info{Digest: dgst, Size: 7}, strings.NewReader("content"))
		if s3.ReasonOf(err) != s3.Conflict || store.Paused() {
			t.Errorf("%s: %v, paused: %v", code, err, store.Paused())
		}
		if keys := server.Keys(""); len(keys) > 0 {
			t.Errorf("%s: the bucket has %q", code, keys)
		}
		server.Intercept(nil)
		if err := store.Upload(t.Context(), storage.Info{Digest: dgst, Size: 7}, strings.NewReader("content")); err != nil {
			t.Errorf("%s: the repetition: %v", code, err)
		}
	}
}

// faster makes another mirror's upload end in the middle of the first one.
func faster(s *s3test.Server, key string, content []byte, status int, code string) {
	s.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") != "" {
				s.Put(key, content)
				s3test.Fail(w, status, code)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
}

// A discarded object is no longer read, even if it cannot be removed, until it is replaced.
func TestDiscard(t *testing.T) {
	server := s3test.New(t)
	store := open(t, server, nil)
	content := []byte("content")
	dgst := storagetest.Commit(t, store, store.Spools(), content)
	server.FailIf(func(r *http.Request) bool { return r.Method == http.MethodDelete }, 403, "AccessDenied")
	if err := store.Discard(t.Context(), dgst); s3.ReasonOf(err) != s3.Denied {
		t.Errorf("Discard: %v, want a refusal", err)
	}
	if _, _, err := store.OpenAt(t.Context(), dgst, 0); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("OpenAt: %v, want ErrNotExist", err)
	}
	server.Requests()
	storagetest.Commit(t, store, store.Spools(), content)
	if requests := strings.Join(server.Requests(), "\n"); !strings.Contains(requests, "PUT ") {
		t.Errorf("the object was not replaced: %s", requests)
	}
	if got := storagetest.Read(t, store, dgst); string(got) != "content" {
		t.Errorf("read %q", got)
	}
}

// The survey names each thing that is missing, and says which ones are grave.
func TestSurvey(t *testing.T) {
	method := func(m, part string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == m && strings.Contains(r.URL.String(), part) }
	}
	for name, tc := range map[string]struct {
		prepare func(*s3test.Server)
		change  func(*s3.Options)
		step    s3.Step
		reason  s3.Reason // Other: a note
		note    string
	}{
		"no bucket":          {func(s *s3test.Server) { s.RemoveBucket() }, nil, s3.StepBucket, s3.NoBucket, ""},
		"a new bucket":       {func(s *s3test.Server) { s.RemoveBucket() }, func(o *s3.Options) { o.CreateBucket = true }, s3.StepBucket, s3.Other, "was created"},
		"no right to list":   {func(s *s3test.Server) { s.FailIf(method("GET", "list-type"), 403, "AccessDenied") }, nil, s3.StepList, s3.Denied, ""},
		"no right at all":    {func(s *s3test.Server) { s.FailIf(anyRequest, 403, "AccessDenied") }, nil, s3.StepBucket, s3.Denied, ""},
		"no right to write":  {func(s *s3test.Server) { s.FailIf(method("PUT", "/probe/"), 403, "AccessDenied") }, nil, s3.StepWrite, s3.Denied, ""},
		"no right to delete": {func(s *s3test.Server) { s.FailIf(method("DELETE", ""), 403, "AccessDenied") }, nil, s3.StepDelete, s3.Denied, ""},
		"wrong region":       {func(s *s3test.Server) { s.FailIf(anyRequest, 400, "AuthorizationHeaderMalformed") }, nil, s3.StepBucket, s3.WrongRegion, ""},
		"wrong clock":        {func(s *s3test.Server) { s.FailIf(anyRequest, 403, "RequestTimeTooSkewed") }, nil, s3.StepBucket, s3.WrongClock, ""},
		"wrong key":          {func(s *s3test.Server) { s.FailIf(anyRequest, 403, "InvalidAccessKeyId") }, nil, s3.StepBucket, s3.BadCredentials, ""},
		"an unknown account": {func(s *s3test.Server) { s.FailIf(anyRequest, 404, "XAdminUserNotFound") }, nil, s3.StepBucket, s3.BadCredentials, ""},
		"a page of a proxy":  {func(s *s3test.Server) { s.Intercept(always(proxyPage)) }, nil, s3.StepBucket, s3.Unreachable, ""},
		"another program":    {func(s *s3test.Server) { s.Put("mirrors/weir/docker/registry/v2/x", nil) }, nil, s3.StepPrefix, s3.Other, "docker/"},
		"another program beside Weir": {func(s *s3test.Server) {
			s.Put("mirrors/weir/weir.json", []byte(`{"format":1}`))
			s.Put("mirrors/weir/backup.tar", nil)
		}, nil, s3.StepPrefix, s3.Other, "backup.tar"},
		"a later version":   {func(s *s3test.Server) { s.Put("mirrors/weir/weir.json", []byte(`{"format":2}`)) }, nil, s3.StepPrefix, s3.Format, ""},
		"no marker of ours": {func(s *s3test.Server) { s.Put("mirrors/weir/weir.json", []byte(`{"version":"1"}`)) }, nil, s3.StepPrefix, s3.Format, ""},
		"a huge marker":     {func(s *s3test.Server) { s.Put("mirrors/weir/weir.json", make([]byte, 1<<20)) }, nil, s3.StepPrefix, s3.Bounds, ""},
		"no conditions": {func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }, 501, "NotImplemented")
		}, nil, s3.StepConditions, s3.Other, "refuses If-None-Match"},
		"conditions are wrong arguments": {func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }, 400, "InvalidArgument")
		}, nil, s3.StepConditions, s3.Other, "refuses If-None-Match"},
		"conditions are not allowed": {func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }, 405, "MethodNotAllowed")
		}, nil, s3.StepConditions, s3.Other, "refuses If-None-Match"},
		"no rule":       {func(*s3test.Server) {}, nil, s3.StepLifecycle, s3.Other, "no rule removes incomplete uploads"},
		"clocks differ": {func(s *s3test.Server) { dated(s, time.Hour) }, nil, s3.StepClock, s3.Other, "behind that of the bucket's server"},
	} {
		t.Run(name, func(t *testing.T) {
			server := s3test.New(t)
			store := open(t, server, tc.change)
			tc.prepare(server)
			findings := store.Survey(t.Context())
			found := false
			for _, f := range findings {
				if f.Step != tc.step {
					continue
				}
				found = true
				if tc.note == "" && (f.Err == nil || s3.ReasonOf(f.Err) != tc.reason) || !strings.Contains(f.Note, tc.note) {
					t.Errorf("%+v, want reason %d and note %q", f, tc.reason, tc.note)
				}
			}
			if !found {
				t.Errorf("no finding about %s: %+v", tc.step, findings)
			}
			for _, key := range server.Keys("") {
				if strings.Contains(key, "/probe/") && tc.step != s3.StepDelete {
					t.Errorf("%s was left", key)
				}
			}
		})
	}
}

func anyRequest(*http.Request) bool { return true }

// proxyPage is the answer of a proxy that has lost the server behind it.
func proxyPage(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}

// Only an object store's own word makes an object or a record missing. A 404 of a proxy in front
// of it, or of a store that does not know the account, is a failure of the bucket: the requests
// stop, and no right counts as removed.
func TestMissingIsSaidByTheStore(t *testing.T) {
	page := func(kind, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, text)
		}
	}
	of := func(code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { s3test.Fail(w, http.StatusNotFound, code) }
	}
	for name, tc := range map[string]struct {
		answer  http.HandlerFunc
		missing bool
		reason  s3.Reason
	}{
		"an object":                 {of("NoSuchKey"), true, s3.Missing},
		"a version of it":           {of("NoSuchVersion"), true, s3.Missing},
		"the bucket":                {of("NoSuchBucket"), false, s3.NoBucket},
		"an account":                {of("XAdminUserNotFound"), false, s3.BadCredentials},
		"another thing":             {of("NoSuchTenant"), false, s3.Other},
		"an error without a code":   {of(""), false, s3.Unreachable},
		"Traefik":                   {proxyPage, false, s3.Unreachable},
		"nginx":                     {page("text/html", "<html>\n<head><title>404 Not Found</title></head></html>"), false, s3.Unreachable},
		"a page that is XML":        {page("text/html; charset=utf-8", `<?xml version="1.0"?><html><Code>NoSuchKey</Code></html>`), false, s3.Unreachable},
		"Envoy":                     {page("", ""), false, s3.Unreachable},
		"an API":                    {page("application/json", `{"Code":"NoSuchKey"}`), false, s3.Unreachable},
		"a document that is cut":    {page("application/xml", `<Error><Code>NoSuchKey</Co`), false, s3.Unreachable},
		"a document that is longer": {page("application/xml", "<Error><Code>NoSuchKey</Code>"+strings.Repeat(" ", 1<<20)+"</Error>"), false, s3.Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := s3test.New(t)
			store := open(t, server, nil)
			server.Intercept(always(tc.answer))
			read := func(label string, err error) {
				t.Helper()
				if errors.Is(err, storage.ErrNotExist) != tc.missing || s3.ReasonOf(err) != tc.reason && !errors.Is(err, s3.ErrPaused) {
					t.Errorf("%s: %v, want reason %d", label, err, tc.reason)
				}
			}
			for range 3 {
				_, err := store.Records().Get(t.Context(), "a/key")
				read("Records.Get", err)
				_, _, err = store.OpenAt(t.Context(), digest.FromString("content"), 0)
				read("OpenAt", err)
			}
			if store.Paused() == tc.missing {
				t.Errorf("the bucket is paused: %v", store.Paused())
			}
		})
	}
}

// An answer to HEAD has no document. Of one that is missing only the type is left.
func TestMissingByHeader(t *testing.T) {
	for kind, missing := range map[string]bool{"": true, "application/xml": true, "text/plain": true, "text/html": false, "text/html; charset=utf-8": false} {
		server := s3test.New(t)
		store := open(t, server, nil)
		server.Intercept(always(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(http.StatusNotFound)
		}))
		if _, err := store.Stat(t.Context(), digest.FromString("content")); errors.Is(err, storage.ErrNotExist) != missing {
			t.Errorf("%q: %v", kind, err)
		}
	}
}

// dated makes a server whose clock is ahead.
func dated(s *s3test.Server, ahead time.Duration) {
	s.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			next.ServeHTTP(w, r)
		})
	})
}

// A later version has made the keys: nothing is read or written any more.
func TestLaterFormat(t *testing.T) {
	server := s3test.New(t)
	server.Put("mirrors/weir/weir.json", []byte(`{"format":9}`))
	store := open(t, server, nil)
	store.Survey(t.Context())
	server.Requests()
	if _, err := store.Records().Get(t.Context(), "a/key"); !errors.Is(err, s3.ErrPaused) || !store.Paused() || s3.ReasonOf(store.Err()) != s3.Format {
		t.Errorf("Get: %v, paused: %v, %v", err, store.Paused(), store.Err())
	}
	if requests := server.Requests(); len(requests) > 0 {
		t.Errorf("requests were sent: %q", requests)
	}
}

// Without the permission to list, S3 answers for a missing object as for one that may not be
// read. Once the survey has shown that objects can be read, that is a miss.
func TestUnlisted(t *testing.T) {
	hides := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r)
			if r.URL.Query().Has("list-type") || (r.Method == http.MethodGet || r.Method == http.MethodHead) && answer.Code == http.StatusNotFound {
				s3test.Fail(w, http.StatusForbidden, "AccessDenied")
				return
			}
			maps.Copy(w.Header(), answer.Header())
			w.WriteHeader(answer.Code)
			_, _ = w.Write(answer.Body.Bytes())
		})
	}
	server := s3test.New(t)
	server.Intercept(hides)
	store := open(t, server, nil)
	dgst := digest.FromString("missing")
	for range 5 { // until the requests are stopped
		if _, err := store.Stat(t.Context(), dgst); err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("before the survey: %v", err)
		}
	}
	for _, finding := range store.Survey(t.Context()) {
		if (finding.Err != nil) != (finding.Step == s3.StepList) || finding.Grave {
			t.Errorf("%+v", finding)
		}
	}
	if _, ok := server.Get("mirrors/weir/weir.json"); !ok {
		t.Error("no marker was written")
	}
	again := open(t, server, nil)
	again.Survey(t.Context())
	for range 5 {
		if _, err := again.Stat(t.Context(), dgst); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Stat: %v", err)
		}
		if _, _, err := again.OpenAt(t.Context(), dgst, 0); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("OpenAt: %v", err)
		}
		if _, err := again.Records().Get(t.Context(), "a/key"); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Records.Get: %v", err)
		}
	}
	if again.Paused() {
		t.Error("misses stopped the requests")
	}
	ours := storagetest.Commit(t, again, again.Spools(), []byte("content"))
	if got := storagetest.Read(t, again, ours); string(got) != "content" {
		t.Errorf("read %q", got)
	}
	// A refused deletion or write is no miss.
	server.FailIf(anyRequest, 403, "AccessDenied")
	if err := again.Records().Put(t.Context(), "a/key", nil); s3.ReasonOf(err) != s3.Denied {
		t.Errorf("Put: %v", err)
	}
}

// A later version's marker that cannot be read is not replaced.
func TestHiddenMarker(t *testing.T) {
	server := s3test.New(t)
	const marker = `{"format":9}`
	server.Put("mirrors/weir/weir.json", []byte(marker))
	server.FailIf(func(r *http.Request) bool {
		return r.URL.Query().Has("list-type") || r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "weir.json")
	}, 403, "AccessDenied")
	open(t, server, nil).Survey(t.Context())
	if object, _ := server.Get("mirrors/weir/weir.json"); string(object.Content) != marker {
		t.Errorf("the marker is %s", object.Content)
	}
	if left := server.Keys("mirrors/weir/probe/"); len(left) > 0 {
		t.Errorf("the survey left %q", left)
	}
}

// Bodies that end early, stall or trickle stop the reading of content after three of them,
// although their headers come. A reader that leaves decides nothing.
func TestBodiesThatFail(t *testing.T) {
	server := s3test.New(t)
	store := open(t, server, nil)
	content := make([]byte, 1<<20)
	dgst := storagetest.Commit(t, store, store.Spools(), content)
	server.Intercept(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
			_, _ = w.Write(content[:1000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
	})
	for range 5 {
		leaving, leave := context.WithCancel(t.Context())
		body, _, err := store.OpenAt(leaving, dgst, 0)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		body.Close()
	}
	for range 3 {
		body, _, err := store.OpenAt(t.Context(), dgst, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(body); err == nil {
			t.Error("the body is whole")
		}
		body.Close()
	}
	server.Requests()
	if _, _, err := store.OpenAt(t.Context(), dgst, 0); !errors.Is(err, s3.ErrPaused) || store.Err() == nil {
		t.Errorf("OpenAt: %v", err)
	}
	if requests := server.Requests(); len(requests) > 0 {
		t.Errorf("requests were sent: %q", requests)
	}
	// Records and uploads go on.
	if err := store.Records().Put(t.Context(), "a/key", nil); err != nil || store.Paused() {
		t.Errorf("Put: %v", err)
	}
}

// A listing that its caller leaves between two pages is not taken for a whole one.
func TestListingThatIsLeft(t *testing.T) {
	server := s3test.New(t)
	store := open(t, server, nil)
	for i := range 1500 {
		hex := digest.FromString(strconv.Itoa(i)).Encoded()
		server.Put("mirrors/weir/blobs/sha256/"+hex[:2]+"/"+hex, nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen, last := 0, error(nil)
	for _, err := range store.All(ctx) {
		if last = err; err == nil {
			seen++
		}
		if seen == 1000 {
			cancel()
		}
	}
	if seen != 1000 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d entries, %v", seen, last)
	}
}

// The survey follows no redirect, and its findings do not have the URL with its signature.
func TestSurveyKeepsItsURL(t *testing.T) {
	var strayed atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strayed.Add(1) }))
	t.Cleanup(other.Close)
	for name, answer := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) },
		"no answer":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := s3test.New(t)
		store := open(t, server, nil)
		server.Intercept(func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("X-Amz-Signature") {
					answer(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		for _, f := range store.Survey(t.Context()) {
			if failed := f.Step == s3.StepPresign; failed != (f.Err != nil) || failed && strings.Contains(f.Err.Error(), "X-Amz-") {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
	if n := strayed.Load(); n > 0 {
		t.Errorf("%d requests went to another host", n)
	}
}

// Credentials that may not write, delete or list can do the rest.
func TestRefusalsThatStopNothing(t *testing.T) {
	server := s3test.New(t)
	store := open(t, server, nil)
	dgst := storagetest.Commit(t, store, store.Spools(), []byte("content"))
	server.FailIf(func(r *http.Request) bool {
		return r.Method != http.MethodGet && r.Method != http.MethodHead || r.URL.Query().Has("list-type")
	}, 403, "AccessDenied")
	for range 5 {
		if err := store.Discard(t.Context(), digest.FromString("other")); s3.ReasonOf(err) != s3.Denied {
			t.Errorf("Discard: %v", err)
		}
		for _, err := range store.Records().List(t.Context(), "") {
			if s3.ReasonOf(err) != s3.Denied {
				t.Errorf("List: %v", err)
			}
		}
		if err := store.Records().Put(t.Context(), "a/key", nil); s3.ReasonOf(err) != s3.Denied {
			t.Errorf("Put: %v", err)
		}
		more := storage.Info{Digest: digest.FromString("more"), Size: int64(len("more"))}
		if err := store.Upload(t.Context(), more, strings.NewReader("more")); s3.ReasonOf(err) != s3.Denied {
			t.Errorf("Upload: %v", err)
		}
	}
	if got := storagetest.Read(t, store, dgst); string(got) != "content" || store.Err() != nil {
		t.Errorf("read %q; %v", got, store.Err())
	}
}
