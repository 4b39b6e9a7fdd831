package s3

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
)

// objects answers a HEAD of each object, and counts the requests.
type objects struct {
	size  int64 // of all objects; -1: there are none
	asked int
}

func (o *objects) RoundTrip(r *http.Request) (*http.Response, error) {
	o.asked++
	answer := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"x"`}, "Last-Modified": {time.Now().UTC().Format(http.TimeFormat)}}, Body: http.NoBody, Request: r}
	if o.size < 0 {
		answer.StatusCode = http.StatusNotFound
		return answer, nil
	}
	answer.ContentLength = o.size
	answer.Header.Set("Content-Length", fmt.Sprint(o.size))
	return answer, nil
}

// role are credentials that end.
type role struct{ ends time.Time }

func (r role) Retrieve() (credentials.Value, error) { return r.RetrieveWithCredContext(nil) }

func (r role) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return credentials.Value{AccessKeyID: "key", SecretAccessKey: "secret", SessionToken: "token", Expiration: r.ends, SignerType: credentials.SignatureV4}, nil
}

func (r role) IsExpired() bool { return false }

// linked returns a store whose server is a function. change may be nil.
func linked(t *testing.T, server http.RoundTripper, change func(*Options)) *Store {
	t.Helper()
	opts := Options{
		Endpoint: &url.URL{Scheme: "https", Host: "s3.example"}, Bucket: "mirror", Region: "eu", AccessKeyID: "key", SecretKey: "secret", KeyPrefix: "weir",
		MaxAttempts: 1, PresignTTL: 30 * time.Minute,
	}
	if change != nil {
		change(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.transport.next = server
	return s
}

// An object is asked for once an hour, and its URL is signed again after half its life.
func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &objects{size: 5}
		s := linked(t, server, nil)
		dgst := digest.FromString("content")
		first := s.Link(t.Context(), dgst, 5)
		if first == nil || server.asked != 1 {
			t.Fatalf("%v after %d requests", first, server.asked)
		}
		if first.Host != "s3.example" || first.Path != "/mirror/weir/blobs/sha256/"+dgst.Encoded()[:2]+"/"+dgst.Encoded() || first.Query().Get("X-Amz-Expires") != "1800" {
			t.Errorf("the URL is %v", first)
		}
		time.Sleep(14 * time.Minute)
		if again := s.Link(t.Context(), dgst, 5); again.String() != first.String() {
			t.Errorf("signed anew: %v", again)
		}
		time.Sleep(2 * time.Minute)
		if again := s.Link(t.Context(), dgst, 5); again.String() == first.String() || server.asked != 1 {
			t.Errorf("after half its life: %v after %d requests", again, server.asked)
		}
		time.Sleep(45 * time.Minute)
		if s.Link(t.Context(), dgst, 5) == nil || server.asked != 2 {
			t.Errorf("after an hour: %d requests", server.asked)
		}
		if s.Link(t.Context(), dgst, 6) != nil {
			t.Error("an object of another size has a URL")
		}
		// It was removed meanwhile, and came back.
		time.Sleep(61 * time.Minute)
		server.size = -1
		for range 3 {
			if link := s.Link(t.Context(), dgst, 5); link != nil || server.asked != 3 {
				t.Errorf("a missing object: %v after %d requests", link, server.asked)
			}
		}
		server.size = 5
		time.Sleep(absenceLife + time.Second)
		if s.Link(t.Context(), dgst, 5) == nil {
			t.Error("an object that is there again has no URL")
		}
		// One with other bytes is not shown to clients.
		s.discarded.Add(dgst, struct{}{})
		if s.Link(t.Context(), dgst, 5) != nil {
			t.Error("a discarded object has a URL")
		}
	})
}

// A URL ends with the credentials that sign it, and with too short a life there is none.
func TestLinkEndsWithCredentials(t *testing.T) {
	for left, want := range map[time.Duration]string{time.Hour: "1800", 10 * time.Minute: "600", 61 * time.Second: "61", 30 * time.Second: "", -time.Hour: ""} {
		synctest.Test(t, func(t *testing.T) {
			s := linked(t, &objects{size: 5}, nil)
			var err error
			if s.links, err = minio.New("s3.example", &minio.Options{Creds: credentials.New(role{time.Now().Add(left)}), Secure: true, Region: "eu"}); err != nil {
				t.Fatal(err)
			}
			link := s.Link(t.Context(), digest.FromString("content"), 5)
			if want == "" && link != nil || want != "" && (link == nil || link.Query().Get("X-Amz-Expires") != want) {
				t.Errorf("%s before the end: %v, want a life of %q", left, link, want)
			}
			if link == nil {
				return
			}
			if k, _ := s.known.Get(digest.FromString("content")); k.fresh.After(time.Now().Add(left / 2)) {
				t.Errorf("%s before the end: it is given out for %s", left, time.Until(k.fresh))
			}
		})
	}
}

// Clients may reach the bucket by another name, which is signed.
func TestLinkAtAnotherEndpoint(t *testing.T) {
	server := &objects{size: 5}
	s := linked(t, server, func(o *Options) { o.RedirectEndpoint = &url.URL{Scheme: "http", Host: "outside.example:9000"} })
	link := s.Link(t.Context(), digest.FromString("content"), 5)
	if link == nil || !strings.HasPrefix(link.String(), "http://outside.example:9000/mirror/weir/blobs/") || server.asked != 1 {
		t.Errorf("%v after %d requests", link, server.asked)
	}
}

// A client does not wait for a bucket that is not asked, or that does not answer.
func TestLinkWithoutBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := linked(t, hanging{}, nil)
		begun := time.Now()
		for range 5 {
			if link := s.Link(t.Context(), digest.FromString("content"), 5); link != nil {
				t.Errorf("a URL of an unknown object: %v", link)
			}
		}
		if took := time.Since(begun); took > failuresToPause*linkPatience {
			t.Errorf("clients waited for %s", took)
		}
	})
}

// hanging never answers.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
