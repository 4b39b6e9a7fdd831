// Package s3 is the storage driver for a bucket of an object store that speaks S3.
//
//	PREFIX/weir.json                                      the format of the keys below
//	PREFIX/blobs/<algorithm>/<first two hex digits>/<hex>  content
//	PREFIX/records/<key>                                  records
//	PREFIX/eviction/<name>                                of the mirrors that use and evict content
//	PREFIX/probe/<random>                                 of a [Store.Survey]; removed at its end
//
// Objects with other keys belong to others, and are left alone.
//
// A bucket is as foreign as an upstream: other programs and people may write to it. Each
// answer is bounded in bytes and time before it is believed ([transport]), and content is
// whatever its digest says: this package compares lengths, and its callers compare the
// digest. Content is written once it has been verified, and never changed.
//
// A server that is unavailable, slow, or refuses, is no longer asked for a while ([gate]). All
// methods then return an *[Error] that matches [ErrPaused] at once.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/spool"
)

const (
	// maxRecord is the longest record, in bytes: 12 MiB of a document in JSON as base64.
	maxRecord = 16 << 20
	// maxKey is the longest key of an object, in bytes, that S3 takes.
	maxKey = 1024
	// smallestPart is the least size of a part, but for the last one.
	smallestPart = 16 << 20
	// maxParts is how many parts an upload may have at most, with a reserve: S3 takes
	// 10,000.
	maxParts = 9000
	// parallelFrom is the size from which several parts of an object are sent at once.
	parallelFrom = 64 << 20
	// partsAtOnce is how many that are: enough for a network that is far away, few enough
	// that other uploads have their share.
	partsAtOnce = 4
	// maxDiscarded is how many corrupt objects are remembered.
	maxDiscarded = 4096
	// firstByte is how long a caller that could read elsewhere waits for an answer.
	firstByte = 10 * time.Second
	// recordPatience is how long the reading of a record may take. A lookup waits for it,
	// and can do without it.
	recordPatience = 3 * time.Second
	// longRecord is the size from which on a record waits for one of longAtOnce places. Links
	// and tags are shorter, and the lengths of the rest are the server's words.
	longRecord = 64 << 10
	longAtOnce = 8
	// maxListed is how many keys a listing has at most, so that each one ends.
	maxListed = 20_000_000
	// maxKeys bounds the keys of all records that are sorted in memory, in bytes with keyCost
	// for each: over a million. maxKeysBelow is that for one repository, such as its tags.
	maxKeys      = 256 << 20
	maxKeysBelow = 16 << 20
	keyCost      = 48
	// pagePatience is how long a page of a listing may take: servers that keep objects as
	// files read many directories for one.
	pagePatience = time.Minute
	// stall is the longest pause between two reads of a body.
	stall = 15 * time.Second
	// slowest is how many bytes of a body have to come while a stall's time is waited for
	// them: an upstream is faster than 70 KB/s, or no worse.
	slowest = 1 << 20
)

// PathStyle is the place of the bucket's name in URLs.
type PathStyle uint8

// The places of the bucket's name.
const (
	PathAuto PathStyle = iota // before the host's name at Amazon and its like, else in the path
	PathAlways
	PathNever
)

// Options configure a [Store].
type Options struct {
	Endpoint     *url.URL // http or https, a host, and no path
	Bucket       string
	CreateBucket bool   // if there is none
	Region       string // "": the server gives it
	AccessKeyID  string // "": from the environment, profiles or the machine's service
	SecretKey    string
	KeyPrefix    string // without slashes at its ends
	PathStyle    PathStyle
	PartSize     int64 // bytes; 0: by the size of the content

	MaxAttempts      int           // of each request; 0: 3
	AttemptTimeout   time.Duration // of one request with its body; 0: 5 min
	OperationTimeout time.Duration // of all attempts together; 0: 15 min

	PresignTTL       time.Duration // how long a URL of Link is good; 0: 30 min
	RedirectEndpoint *url.URL      // that clients reach; nil or empty: Endpoint. Region must be set

	Spools  *spool.Dir // for callers of Spools; may be nil
	Metrics *Metrics
	Logger  *slog.Logger // the default discards
}

// Store is the content and the records in a bucket.
type Store struct {
	opts      Options
	client    *minio.Core
	links     *minio.Client // signs the URLs of clients
	known     *bounded.Cache[digest.Digest, known]
	http      *http.Transport
	transport *transport
	gate      *gate // of all requests
	bodies    *gate // of content that is read: its headers may come, and its bytes not
	records   *records
	long      *semaphore.Weighted // places of records that are long
	logger    *slog.Logger
	discarded *lru.Cache[digest.Digest, struct{}] // see Discard
	// unconditional is set once the server has refused a write with a condition.
	unconditional atomic.Bool
	// unlisted is set if the credentials may not list the bucket. A server hides then which
	// objects are missing.
	unlisted atomic.Bool
	// oneByOne is set once the server has refused to delete several objects at once.
	oneByOne atomic.Bool
	eviction atomic.Pointer[Eviction] // nil: nothing is evicted
}

var _ storage.Driver = (*Store)(nil)

// New returns a store in a bucket. It sends no request.
func New(opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.MaxAttempts = cmp.Or(max(opts.MaxAttempts, 0), 3)
	opts.AttemptTimeout = cmp.Or(opts.AttemptTimeout, 5*time.Minute)
	opts.OperationTimeout = cmp.Or(opts.OperationTimeout, 15*time.Minute)
	opts.PresignTTL = cmp.Or(opts.PresignTTL, 30*time.Minute)
	dialer := newTransport(opts.AttemptTimeout)
	limits := &transport{next: dialer, timeout: opts.AttemptTimeout}
	settings := &minio.Options{
		Creds:        newCredentials(opts),
		Secure:       opts.Endpoint.Scheme == "https",
		Transport:    limits,
		Region:       opts.Region,
		BucketLookup: opts.PathStyle.lookup(),
		MaxRetries:   opts.MaxAttempts,
	}
	client, err := minio.NewCore(opts.Endpoint.Host, settings)
	if err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	client.SetAppInfo("weir", "1")
	s := &Store{
		opts: opts, client: client, http: dialer, transport: limits, logger: opts.Logger, long: semaphore.NewWeighted(longAtOnce),
		known: bounded.New(knownObjects, knownBytes, func(dgst digest.Digest, k known) int { return k.bytes(dgst) }),
	}
	if s.links, err = s.newLinks(settings); err != nil {
		return nil, fmt.Errorf("s3: %w", err)
	}
	if s.discarded, err = lru.New[digest.Digest, struct{}](maxDiscarded); err != nil {
		panic(err) // cannot be: the size is positive
	}
	logger := opts.Logger.With("endpoint", opts.Endpoint.Host, "bucket", opts.Bucket)
	s.gate = newGate(logger, opts.Metrics.pausing(requestsFail))
	s.bodies = newGate(logger, opts.Metrics.pausing(bodiesFail))
	s.records = &records{store: s}
	return s, nil
}

// lookup returns the place of the bucket's name as the library calls it.
func (p PathStyle) lookup() minio.BucketLookupType {
	switch p {
	case PathAlways:
		return minio.BucketLookupPath
	case PathNever:
		return minio.BucketLookupDNS
	default:
		return minio.BucketLookupAuto
	}
}

// newCredentials returns the configured keys or, if there are none, those of the place
// where the process runs: variables of the environment, the profiles of the AWS tools, a
// web identity, the agent of a pod, a container or a machine, in this order.
func newCredentials(opts Options) *credentials.Credentials {
	if opts.AccessKeyID != "" {
		return credentials.NewStaticV4(opts.AccessKeyID, opts.SecretKey, "")
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{},
		&credentials.FileAWSCredentials{},
		// Where no service answers, as on a laptop, that must not take minutes.
		&credentials.IAM{Region: opts.Region, Client: &http.Client{Timeout: 5 * time.Second}},
	})
}

// Records returns the records in the bucket.
func (s *Store) Records() storage.Records { return s.records }

// Spools returns the directory of Options.
func (s *Store) Spools() *spool.Dir { return s.opts.Spools }

// Close closes idle connections.
func (s *Store) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// Host returns the host of the bucket, for logs and messages.
func (s *Store) Host() string { return s.opts.Endpoint.Host }

// refuse sends no request any more: the keys below the prefix are of another format.
func (s *Store) refuse(err error) { s.gate.refuse(err) }

// Err returns the failure for which no request is sent at the moment, or nil.
func (s *Store) Err() error {
	if err := s.gate.err(); err != nil {
		return err
	}
	return s.bodies.err()
}

// Paused reports whether requests are refused at the moment, since the last ones failed.
// Those that read content may be refused by themselves.
func (s *Store) Paused() bool { return s.gate.paused() }

// key returns the key of an object below the prefix.
func (s *Store) key(name string) string { return path.Join(s.opts.KeyPrefix, name) }

// below returns the prefix of the keys below a name.
func (s *Store) below(name string) string { return s.key(name) + "/" }

// blobKey returns the key of a blob. No key is made from an invalid digest.
func (s *Store) blobKey(dgst digest.Digest) (string, error) {
	if err := storage.ValidateDigest(dgst); err != nil {
		return "", err
	}
	return s.key(blobsName + "/" + dgst.Algorithm().String() + "/" + dgst.Encoded()[:2] + "/" + dgst.Encoded()), nil
}

// call runs an operation through the gate, within the time of an operation.
func (s *Store) call(ctx context.Context, op operation, do func(context.Context) error) error {
	return s.within(ctx, op, s.opts.OperationTimeout, do)
}

// within is call with a time of its own.
func (s *Store) within(ctx context.Context, op operation, limit time.Duration, do func(context.Context) error) error {
	pass, err := s.enter(ctx)
	if err != nil {
		s.opts.Metrics.ended(op, paused, 0)
		return err
	}
	begun := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, limit, errTimeout)
	defer cancel()
	err = s.explain(op, do(limited))
	if err != nil && ctx.Err() != nil { // the caller has left
		pass.abandon()
		s.opts.Metrics.ended(op, canceled, time.Since(begun))
		return context.Cause(ctx)
	}
	// The library hides the cause of its context's end.
	if err != nil && limited.Err() != nil {
		err = &Error{Operation: string(op), Reason: Unreachable, err: fmt.Errorf("%w of %s", errTimeout, limit)}
	}
	s.leave(pass, op, err)
	s.opts.Metrics.ended(op, resultOf(err), time.Since(begun))
	return err
}

// leave ends a pass. Credentials that may not write, delete or list can do the rest, and the
// survey names the missing permission. A mirror that may only read is such a one.
func (s *Store) leave(pass pass, op operation, err error) {
	if ReasonOf(err) == Denied {
		switch op {
		case opPut, opWrite, opDelete, opList:
			pass.abandon()
			return
		}
	}
	pass.end(err)
}

// surveyed is the key of a context whose requests are those of a survey. They are sent
// also while others are not: a survey is seldom, and finds out why.
type surveyed struct{}

// enter returns the leave to send a request.
func (s *Store) enter(ctx context.Context) (pass, error) {
	if ctx.Value(surveyed{}) != nil {
		return pass{}, nil
	}
	return s.gate.enter(time.Now())
}

// errTimeout ends an operation that takes too long.
var errTimeout = errors.New("it did not finish in time")

// isPlain reports whether a character needs no care in keys, URLs and XML.
func isPlain(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)
}
