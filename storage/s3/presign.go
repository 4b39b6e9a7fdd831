package s3

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

const (
	// proofLife is how long an object counts as there without being asked for: other
	// mirrors and the operator's rules may remove it.
	proofLife = time.Hour
	// absenceLife is how long an object counts as missing: it may be on its way.
	absenceLife = 30 * time.Second
	// linkPatience is how long a client waits for a URL. The mirror has the content too.
	linkPatience = 2 * time.Second
	// shortestLife is the least life of a URL: a client needs some time to use it.
	shortestLife = time.Minute
	// knownObjects and knownBytes bound the memory of objects and of their URLs, which
	// have some 2 KiB with the token of a role.
	knownObjects = 32_768
	knownBytes   = 16 << 20
)

// known is the knowledge about an object.
type known struct {
	size  int64     // -1: it is missing
	until time.Time // the knowledge is believed
	url   string    // "": there is none yet
	fresh time.Time // the URL is given out until then
}

func (k known) bytes(dgst digest.Digest) int { return len(dgst) + len(k.url) + 80 }

// there notes that an object of a size was just seen or written.
func (s *Store) there(dgst digest.Digest, size int64) {
	if s.leaves(dgst) { // it may be gone at any time
		return
	}
	k, _ := s.known.Get(dgst)
	if k.size != size {
		k.url = ""
	}
	k.size, k.until = size, time.Now().Add(proofLife)
	s.known.Add(dgst, k)
}

// gone notes that an object is missing.
func (s *Store) gone(dgst digest.Digest) {
	s.known.Add(dgst, known{size: -1, until: time.Now().Add(absenceLife)})
}

// Has reports whether the bucket has a blob of some size. It sends a request if it does
// not know of the object, and waits for that a short time only.
func (s *Store) Has(ctx context.Context, dgst digest.Digest, size int64) bool {
	_, ok := s.find(ctx, dgst, size)
	if ok {
		s.used(dgst)
	}
	return ok
}

// find returns the knowledge of an object that is there with some size.
func (s *Store) find(ctx context.Context, dgst digest.Digest, size int64) (known, bool) {
	k, _ := s.known.Get(dgst)
	if s.discarded.Contains(dgst) || s.Err() != nil {
		return known{}, false
	}
	if time.Now().After(k.until) {
		if _, err := s.stat(ctx, dgst, linkPatience); err != nil {
			return known{}, false
		}
		k, _ = s.known.Get(dgst)
	}
	return k, k.size == size
}

// Link returns a URL by which a client can read a blob of some size for at least half
// of Options.PresignTTL, or nil if the bucket does not have it or cannot be asked, as with Has.
func (s *Store) Link(ctx context.Context, dgst digest.Digest, size int64) *url.URL {
	if !s.stays(ctx, dgst) {
		return nil
	}
	now := time.Now()
	k, ok := s.find(ctx, dgst, size)
	if !ok {
		return nil
	}
	s.used(dgst)
	if k.url == "" || now.After(k.fresh) {
		signed, life, err := s.sign(ctx, dgst)
		if err != nil {
			s.logger.Debug("cannot sign a URL for a client", "digest", dgst, "error", err)
			return nil
		}
		k.url, k.fresh = signed.String(), now.Add(life/2)
		s.known.Add(dgst, k)
		return signed
	}
	signed, err := url.Parse(k.url)
	if err != nil {
		panic(err) // cannot be: it was printed from a URL
	}
	return signed
}

// sign returns a URL for a blob, and how long it is good: no longer than the credentials.
func (s *Store) sign(ctx context.Context, dgst digest.Digest) (*url.URL, time.Duration, error) {
	key, err := s.blobKey(dgst)
	if err != nil {
		return nil, 0, err
	}
	creds, err := s.links.GetCreds()
	if err != nil {
		return nil, 0, err
	}
	life := s.opts.PresignTTL
	if !creds.Expiration.IsZero() {
		life = min(life, time.Until(creds.Expiration).Truncate(time.Second))
	}
	if life < min(shortestLife, s.opts.PresignTTL) {
		return nil, 0, errors.New("the credentials expire soon")
	}
	limited, cancel := context.WithTimeoutCause(ctx, linkPatience, errTimeout)
	defer cancel()
	signed, err := s.links.PresignedGetObject(limited, s.opts.Bucket, key, life, nil)
	return signed, life, err
}

// newLinks returns the client that signs URLs. It sends no request if the region is known.
func (s *Store) newLinks(settings *minio.Options) (*minio.Client, error) {
	if s.opts.RedirectEndpoint == nil || s.opts.RedirectEndpoint.Host == "" {
		return s.client.Client, nil
	}
	opts := *settings
	opts.Secure = s.opts.RedirectEndpoint.Scheme == "https"
	return minio.New(s.opts.RedirectEndpoint.Host, &opts)
}
