package fleet

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/storage/s3/s3test"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// getBlob matches reads of content.
func getBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/")
}

// getRecord matches reads of records.
func getRecord(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/records/")
}

// putBlob matches uploads of content, and conditional those that must not replace any.
func putBlob(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/")
}

func conditional(r *http.Request) bool { return r.Header.Get("If-None-Match") != "" }

func anyRequest(*http.Request) bool { return true }

// proxyPage is the answer of a proxy that has lost the server behind it.
func proxyPage(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}

// instead answers the requests that match with another handler.
func instead(match func(*http.Request) bool, answer func(w http.ResponseWriter, r *http.Request, next http.Handler)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if match(r) {
				answer(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// cutting passes that many bytes of a body on, and then breaks the connection.
type cutting struct {
	http.ResponseWriter
	left int
	hang <-chan struct{} // if set, the rest is silence until it is closed
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) < c.left {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	_, _ = c.ResponseWriter.Write(p[:c.left])
	c.ResponseWriter.(http.Flusher).Flush()
	if c.hang != nil {
		<-c.hang
	}
	panic(http.ErrAbortHandler)
}

// No fault of the bucket makes a client fail while the upstream is well, and no wrong byte
// completes.
func TestBucketFaults(t *testing.T) {
	t.Parallel()
	layer := content(2*mib, 3)
	filled, filler := s3test.New(t), upstreamtest.New(t)
	i := addImage(filler, "1.0", layer)
	first := harness.StartWeir(t, filled.Config()+streamed+block(filler))
	pull(t, first, i, "1.0")
	inBucket(t, filled, 3, i.manifest, i.layer)
	first.Kill()
	for name, tc := range map[string]struct {
		fault func(*testing.T, *s3test.Server, image) // before the second mirror starts
		// breaks is set if a client may see its first pull break off, as from a lying upstream.
		breaks bool
		slow   string // why it takes its time
	}{
		"500":      {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.FailIf(anyRequest, 500, "InternalError") }},
		"SlowDown": {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.FailIf(anyRequest, 503, "SlowDown") }},
		"denied":   {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.FailIf(anyRequest, 403, "AccessDenied") }},
		"no list": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			s.FailIf(func(r *http.Request) bool { return r.URL.Query().Has("list-type") }, 403, "AccessDenied")
		}},
		"a proxy without its server": {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.Intercept(instead(anyRequest, proxyPage)) }},
		"wrong clock":                {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.FailIf(anyRequest, 403, "RequestTimeTooSkewed") }},
		"wrong region": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			s.FailIf(anyRequest, 400, "AuthorizationHeaderMalformed")
		}},
		"no bucket":      {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.FailIf(anyRequest, 404, "NoSuchBucket") }},
		"a later format": {fault: func(_ *testing.T, s *s3test.Server, _ image) { s.Put("weir.json", []byte(`{"format":7}`)) }},
		"connections break": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			s.Intercept(instead(anyRequest, func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }))
		}},
		"cut bodies": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			s.Intercept(instead(getBlob, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(&cutting{ResponseWriter: w, left: 100_000}, r)
			}))
		}},
		"bodies that stall": {slow: "waits for the end of a stalled body", fault: func(t *testing.T, s *s3test.Server, _ image) {
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			s.Intercept(instead(getBlob, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				// The server answers other requests meanwhile.
				answer := httptest.NewRecorder()
				next.ServeHTTP(answer, r)
				maps.Copy(w.Header(), answer.Header())
				w.WriteHeader(answer.Code)
				_, _ = (&cutting{ResponseWriter: w, left: 100_000, hang: end}).Write(answer.Body.Bytes())
			}))
		}},
		"silence": {slow: "waits for answers that never come", fault: func(t *testing.T, s *s3test.Server, _ image) {
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			s.Intercept(instead(anyRequest, func(http.ResponseWriter, *http.Request, http.Handler) { <-end }))
		}},
		"uploads hang": {fault: func(t *testing.T, s *s3test.Server, i image) {
			end := make(chan struct{})
			t.Cleanup(func() { close(end) })
			s.Delete(key(i.layer))
			s.Intercept(instead(putBlob, func(http.ResponseWriter, *http.Request, http.Handler) { <-end }))
		}},
		"uploads are refused": {fault: func(_ *testing.T, s *s3test.Server, i image) {
			s.Delete(key(i.layer))
			s.FailIf(putBlob, 403, "AccessDenied")
		}},
		"objects are gone, and conditions are refused": {fault: func(_ *testing.T, s *s3test.Server, i image) {
			s.Delete(key(i.layer))
			s.FailIf(conditional, 501, "NotImplemented")
		}},
		"objects are gone, and conditions are ignored": {fault: func(_ *testing.T, s *s3test.Server, i image) {
			s.Delete(key(i.layer))
			s.Intercept(instead(conditional, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.Header.Del("If-None-Match")
				next.ServeHTTP(w, r)
			}))
		}},
		"wrong bytes that may not be removed": {breaks: true, fault: func(_ *testing.T, s *s3test.Server, i image) {
			wrong := slices.Clone(layer)
			wrong[mib] ^= 1
			s.Put(key(i.layer), wrong)
			s.FailIf(func(r *http.Request) bool { return r.Method == http.MethodDelete }, 403, "AccessDenied")
		}},
		"objects are gone": {fault: func(_ *testing.T, s *s3test.Server, i image) {
			s.Delete(key(i.layer))
			s.Delete(key(i.manifest))
		}},
		"objects are cut": {fault: func(_ *testing.T, s *s3test.Server, i image) {
			s.Put(key(i.layer), layer[:mib])
			s.Put(key(i.manifest), []byte("{}"))
		}},
		"objects have grown": {fault: func(_ *testing.T, s *s3test.Server, i image) { s.Put(key(i.layer), append(slices.Clone(layer), 1)) }},
		"wrong bytes": {breaks: true, fault: func(_ *testing.T, s *s3test.Server, i image) {
			wrong := slices.Clone(layer)
			wrong[mib] ^= 1
			s.Put(key(i.layer), wrong)
			manifest, _ := s.Get(key(i.manifest))
			s.Put(key(i.manifest), append([]byte(" "), manifest.Content[1:]...))
		}},
		"records are gone": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			for _, key := range s.Keys("records/") {
				s.Delete(key)
			}
		}},
		"records are garbage": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			for _, key := range s.Keys("records/") {
				s.Put(key, []byte("\x00{"))
			}
		}},
		"records are huge": {fault: func(_ *testing.T, s *s3test.Server, _ image) {
			for _, key := range s.Keys("records/") {
				s.Put(key, make([]byte, 17*mib))
			}
			// Their length is announced and counts. Its bytes would take the test its time.
			s.Intercept(instead(getRecord, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(&cutting{ResponseWriter: w, left: 100_000}, r)
			}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.slow != "" {
				testutil.Long(t, tc.slow)
			}
			server, upstream := s3test.New(t), upstreamtest.New(t)
			addImage(upstream, "1.0", layer)
			for _, key := range filled.Keys("") {
				object, _ := filled.Get(key)
				server.Put(key, object.Content)
			}
			server.Put("blobs/of/another/program", layer[:9])
			tc.fault(t, server, i)
			second := harness.StartWeir(t, server.Config("max_attempts = 1", `records_ttl = "1s"`)+streamed+block(upstream))
			// Wrong bytes that a client has seen cannot be taken back.
			if answer := second.Get(t, i.layerPath()); answer.Err != nil && !tc.breaks || answer.Err == nil && string(answer.Body) != string(layer) {
				t.Errorf("the first pull: %d, %d bytes, %v", answer.Status, len(answer.Body), answer.Err)
			}
			pull(t, second, i, "1.0")
			second.ExpectIntact(t)
			if answer := second.Get(t, "/readyz"); answer.Status != http.StatusOK {
				t.Errorf("/readyz: %d %s", answer.Status, answer.Body)
			}
			if object, _ := server.Get("blobs/of/another/program"); string(object.Content) != string(layer[:9]) {
				t.Error("an object of another program has changed")
			}
			// The content from upstream replaces damaged objects.
			if strings.HasPrefix(name, "objects") || tc.breaks {
				harness.Eventually(t, "the bucket has the right bytes again", func() bool {
					object, _ := server.Get(key(i.layer))
					return string(object.Content) == string(layer)
				})
			}
		})
	}
}

// Bytes of the bucket prove no right. A repository whose upstream does not have a blob, or
// refuses it, does not get the bytes of another one.
func TestBucketProvesNothing(t *testing.T) {
	t.Parallel()
	server, public, private := s3test.New(t), upstreamtest.New(t), upstreamtest.New(t)
	i := addImage(public, "1.0", content(mib, 5))
	shown := addImage(private, "1.0", content(mib, 6))
	public.AddBlob("org/app", content(mib, 6))
	config := server.Config() + streamed + block(public) + "[repository.other]\n[[repository.other.upstream]]\nurl = \"" + private.URL.String() + "\"\n"
	first := harness.StartWeir(t, config)
	pull(t, first, i, "1.0")
	if answer := first.Get(t, shown.layerPath()); answer.Status != http.StatusOK {
		t.Fatalf("%d", answer.Status)
	}
	inBucket(t, server, 3, i.manifest, i.layer, shown.layer)
	first.Kill()

	w := harness.StartWeir(t, config)
	other := func(i image) string { return strings.Replace(i.layerPath(), "/mirror/", "/other/", 1) }
	if answer := w.Get(t, other(i)); answer.Status != http.StatusNotFound {
		t.Errorf("a blob that the upstream does not have: %d, %d bytes", answer.Status, len(answer.Body))
	}
	before := w.Metric(t, "weir_upstream_bytes_total", "upstream", private.Host)
	answer := w.Get(t, other(shown))
	if answer.Status != http.StatusOK || string(answer.Body) != string(content(mib, 6)) {
		t.Errorf("a blob that the upstream has: %d, %d bytes", answer.Status, len(answer.Body))
	}
	if sent := w.Metric(t, "weir_upstream_bytes_total", "upstream", private.Host) - before; sent > 64<<10 {
		t.Errorf("the upstream sent %v bytes for a proof", sent)
	}
}

// A mirror starts and serves without its bucket, says so, and catches up later.
func TestBucketAway(t *testing.T) {
	testutil.Long(t, "waits until a bucket is tried again")
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(mib, 7))
	server.FailIf(anyRequest, 500, "InternalError")
	w := harness.StartWeir(t, server.Config("max_attempts = 1")+streamed+block(upstream))
	pull(t, w, i, "1.0")
	harness.Eventually(t, "/readyz tells of the bucket", func() bool {
		answer := w.Get(t, "/readyz")
		return answer.Status == http.StatusOK && strings.HasPrefix(string(answer.Body), "ready, but the bucket is not used")
	})
	w.Logs(t, "the bucket cannot be used")
	w.MetricIs(t, 1, "weir_s3_paused")
	pull(t, w, i, "1.0")
	server.Intercept(nil)
	inBucket(t, server, 3, i.manifest, i.layer)
	w.MetricIs(t, 0, "weir_s3_paused")
	if n := w.Log.Count("the bucket cannot be used"); n != 1 {
		t.Errorf("%d lines about one outage", n)
	}
}

// Content that is not in the bucket when a mirror ends is uploaded after the next start.
func TestUploadsGoOnAfterRestart(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(mib, 8))
	server.FailIf(func(r *http.Request) bool { return r.Method == http.MethodPut }, 500, "InternalError")
	dir, config := t.TempDir(), server.Config("max_attempts = 1")+streamed+block(upstream)
	first := harness.StartWeirIn(t, dir, config)
	pull(t, first, i, "1.0")
	// The last byte is sent before the content is stored.
	harness.Eventually(t, "the content and its records are stored here", func() bool {
		return len(first.Stored(t, "blobs")) >= 2 && len(first.Stored(t, "records")) >= 3
	})
	first.Kill()
	if keys := server.Keys(""); len(keys) != 0 {
		t.Fatalf("the bucket has %q", keys)
	}
	server.Intercept(nil)
	harness.StartWeirIn(t, dir, config)
	inBucket(t, server, 3, i.manifest, i.layer)
}

// A namespace that contacts no upstream serves from the bucket, as from its disk.
func TestOfflineMirrorReadsBucket(t *testing.T) {
	t.Parallel()
	server, upstream := s3test.New(t), upstreamtest.New(t)
	i := addImage(upstream, "1.0", content(mib, 9))
	first := harness.StartWeir(t, server.Config()+streamed+block(upstream))
	pull(t, first, i, "1.0")
	inBucket(t, server, 3, i.manifest, i.layer)
	first.Kill()
	upstream.ResetRequests()
	pull(t, harness.StartWeir(t, server.Config()+streamed+block(upstream, "offline = true")), i, "1.0")
	if got := upstream.Requests(); len(got) != 0 {
		t.Errorf("the upstream was asked %q", got)
	}
}

// Each trouble with a bucket is named once in the log, with its remedy, and by weir check.
func TestBucketTroubleIsNamed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault  func(*s3test.Server)
		want   string
		fine   bool
		change func(config string) string // nil: none
	}{
		"no right to delete": {fault: func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.Method == http.MethodDelete }, 403, "AccessDenied")
		}, want: "Allow s3:DeleteObject"},
		"no right to list": {fault: func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.URL.Query().Has("list-type") }, 403, "AccessDenied")
		}, want: "Allow s3:ListBucket"},
		"no right to write": {fault: func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool {
				return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/probe/")
			}, 403, "AccessDenied")
		}, want: "Allow s3:PutObject"},
		"URLs lead nowhere": {fault: func(s *s3test.Server) {
			s.FailIf(func(r *http.Request) bool { return r.URL.Query().Has("X-Amz-Signature") }, 403, "AccessDenied")
		}, want: "a presigned URL does not lead to the object"},
		"wrong clock": {fault: func(s *s3test.Server) { s.FailIf(anyRequest, 403, "RequestTimeTooSkewed") }, want: "Synchronize the clock"},
		"a clock that is an hour ahead": {fault: func(s *s3test.Server) {
			s.Intercept(instead(anyRequest, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
				next.ServeHTTP(w, r)
			}))
		}, want: "behind that of the bucket's server", fine: true},
		"wrong region":               {fault: func(s *s3test.Server) { s.FailIf(anyRequest, 400, "AuthorizationHeaderMalformed") }, want: "Set blob_store.s3.region"},
		"another account":            {fault: func(s *s3test.Server) { s.FailIf(anyRequest, 404, "XAdminUserNotFound") }, want: "Check blob_store.s3.access_key_id"},
		"a proxy without its server": {fault: func(s *s3test.Server) { s.Intercept(instead(anyRequest, proxyPage)) }, want: "Check blob_store.s3.endpoint"},
		"another program":            {fault: func(s *s3test.Server) { s.Put("docker/registry/v2/x", nil) }, want: "keys of another program, such as docker/", fine: true},
		"a later format":             {fault: func(s *s3test.Server) { s.Put("weir.json", []byte(`{"format":7}`)) }, want: "Update Weir"},
		"no conditional writes": {fault: func(s *s3test.Server) { s.FailIf(conditional, 501, "NotImplemented") },
			want: "the server refuses If-None-Match", fine: true},
		"no rule for incomplete uploads": {fault: func(*s3test.Server) {}, want: "no rule removes incomplete uploads", fine: true},
		// The server knows the bucket in the path only.
		"a name before the host": {fault: func(*s3test.Server) {}, want: "path_style", change: func(config string) string {
			return strings.Replace(config, "127.0.0.1", "localhost", 1) + "path_style = \"never\"\n"
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, upstream := s3test.New(t), upstreamtest.New(t)
			tc.fault(server)
			if tc.change == nil {
				tc.change = func(config string) string { return config }
			}
			i := addImage(upstream, "1.0", content(mib, 14))
			w := harness.StartWeir(t, tc.change(server.Config("max_attempts = 1"))+streamed+block(upstream))
			w.Logs(t, tc.want)
			pull(t, w, i, "1.0")
			w.Kill()
			if n := w.Log.Count(tc.want, `"level":"ERROR"`) + w.Log.Count(tc.want, `"level":"WARN"`); n > 2 {
				t.Errorf("%d lines about one trouble", n)
			}
			code, out := weir(t, "check", "--online", "--config", w.Config)
			if !strings.Contains(strings.Join(strings.Fields(out), " "), tc.want) || (code == 0) != tc.fine {
				t.Errorf("weir check: exit code %d\n%s", code, out)
			}
		})
	}
}
