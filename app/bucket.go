package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/download"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/s3"
	"github.com/weirhq/weir/storage/tier"
)

const (
	// surveyPause is how long after a grave failure the bucket is surveyed again.
	surveyPause = time.Minute
	// discardPatience bounds the removal of a corrupt object, which a download waits for.
	discardPatience = 10 * time.Second
)

// bucket is the bucket of [blob_store.s3], and the work in the background that brings content
// and records there.
type bucket struct {
	store   *s3.Store
	uploads *tier.Uploader
	records *tier.Records
	uses    *evict.Uses
	absence time.Duration // for which a record that is not there is not looked for again
	// promises is how long clients may read by themselves after a redirect; 0: there are none.
	promises time.Duration
	logger   *slog.Logger

	pinned func() []digest.Digest // blobs that are never evicted

	stopped   context.Context // ends with the bucket
	stop      context.CancelFunc
	surveying sync.WaitGroup
	removing  sync.WaitGroup

	mu        sync.Mutex
	removals  int // that wait for the end of redirects
	postponed int // their blobs

	started *config.Config // of the start, whose limits of the bucket still hold
	metrics *evict.SharedMetrics

	evicting sync.Mutex    // is for the rest
	evictor  *evict.Shared // nil: there are no limits
	turn     *cluster.Turn // nil: the bucket itself has the lease of the eviction
	ended    bool          // the eviction has ended for good
}

// translateS3 returns the options of a bucket's store.
func translateS3(cfg *config.S3) s3.Options {
	style := s3.PathAuto
	switch cfg.PathStyle {
	case config.PathStyleAlways:
		style = s3.PathAlways
	case config.PathStyleNever:
		style = s3.PathNever
	}
	return s3.Options{
		Endpoint: cfg.Endpoint.Std(), Bucket: cfg.Bucket, CreateBucket: cfg.CreateBucket, Region: cfg.Region,
		AccessKeyID: cfg.AccessKeyID, SecretKey: cfg.SecretKey.Reveal(),
		KeyPrefix: cfg.KeyPrefix, PathStyle: style, PartSize: int64(cfg.PartSize),
		MaxAttempts: cfg.MaxAttempts, AttemptTimeout: cfg.AttemptTimeout, OperationTimeout: cfg.OperationTimeout,
		PresignTTL: cfg.PresignTTL, RedirectEndpoint: cfg.RedirectEndpoint.Std(),
	}
}

// redirectedClients returns the clients that are sent to the bucket for blobs, or nil.
func redirectedClients(cfg *config.Config) func(netip.Addr) bool {
	bucket := cfg.BlobStore.S3
	if bucket == nil || !cfg.Global.EnableBlobRedirect {
		return nil
	}
	return func(client netip.Addr) bool {
		return len(bucket.RedirectClients) == 0 || slices.ContainsFunc(bucket.RedirectClients, func(network config.Network) bool {
			return netip.Prefix(network).Contains(client.Unmap())
		})
	}
}

// openBucket opens the bucket of a configuration in addition to the driver of the local tier. It
// waits for no request; the survey runs behind. The key of the repository block that brought a
// content in is that of owner, or "". If forget is not nil, it removes content of the local tier
// that is in the bucket. Contents of pinned are never evicted.
func openBucket(whole *config.Config, driver tierDriver, owner func(digest.Digest) string, forget func(context.Context, storage.Info) error, pinned func() []digest.Digest, metrics prometheus.Registerer, logger *slog.Logger) (*bucket, error) {
	cfg := whole.BlobStore.S3
	opts := translateS3(cfg)
	opts.Metrics, opts.Logger = s3.NewMetrics(metrics), logger
	store, err := s3.New(opts)
	if err != nil {
		return nil, err
	}
	counts := tier.NewMetrics(metrics)
	ctx, cancel := context.WithCancel(context.Background())
	b := &bucket{
		store: store, absence: cfg.RecordsTTL.Std(), logger: logger, stopped: ctx, stop: cancel,
		started: whole, metrics: evict.NewSharedMetrics(metrics),
	}
	if whole.Global.EnableBlobRedirect {
		b.promises = cfg.PresignTTL
	}
	b.uses = evict.NewUses(evict.UsesOptions{Notes: store.Notes(), Interval: cfg.EvictionInterval.Std(), Forget: store.Forget, Logger: logger})
	store.Evicts(b.uses)
	b.uploads = tier.NewUploader(tier.UploaderOptions{
		Near: driver, Far: store, Forget: forget, Metrics: counts, Logger: logger,
		Uploaded: func(dgst digest.Digest) { b.uses.Owned(dgst, owner(dgst)) },
	})
	b.records = tier.NewRecords(tier.RecordsOptions{
		Near: driver.Records(), Far: struct {
			storage.Records
			newRecords
		}{store.Records(), store},
		Shares: catalog.Owns, Paused: store.Paused, TTL: cfg.RecordsTTL.Std(), Touch: driver.TouchRecord, Metrics: counts, Logger: logger,
	})
	b.pinned = pinned
	b.limit(whole)
	b.surveying.Go(func() { b.survey(ctx) })
	return b, nil
}

// limit puts the limits of the repository blocks in force. It begins to evict from the bucket if
// that has a limit, or a block.
func (b *bucket) limit(cfg *config.Config) {
	if b == nil {
		return
	}
	b.evicting.Lock()
	defer b.evicting.Unlock()
	b.metrics.Configured(blockCaps(cfg))
	limits := b.started.BlobStore.S3
	switch {
	case b.evictor != nil:
		b.evictor.SetBlocks(blockCaps(cfg))
		return
	case b.ended || limits.MaxSize == 0 && limits.MaxUnused == 0 && !hasCaps(cfg):
		return
	}
	opts := evictionOptions(b.started, b.store)
	opts.Metrics, opts.Logger, opts.Blocks, opts.Pinned = b.metrics, b.logger, blockCaps(cfg), b.pinned
	if opts.Lease = b.store.NewLease(); cfg.Cache.Redis != nil {
		b.turn = newTurn(limits)
		opts.Lease = b.turn
	}
	b.evictor = evict.NewShared(opts)
}

// evictionOptions returns the options of an eviction, without its lease.
func evictionOptions(whole *config.Config, store *s3.Store) evict.SharedOptions {
	cfg := whole.BlobStore.S3
	opts := evict.SharedOptions{
		Store: store, Notes: store.Notes(), MaxBytes: int64(cfg.MaxSize), MaxUnused: time.Duration(cfg.MaxUnused),
		Interval: cfg.EvictionInterval.Std(),
		Refused:  func(err error) bool { return s3.ReasonOf(err) == s3.Denied },
	}
	if whole.Global.EnableBlobRedirect {
		opts.Presigned = cfg.PresignTTL
	}
	return opts
}

// newTurn returns the turn to evict from a bucket, which Redis has.
func newTurn(cfg *config.S3) *cluster.Turn {
	return cluster.NewTurn("eviction " + cfg.Endpoint.String() + " " + cfg.Bucket + " " + cfg.KeyPrefix)
}

// Evict removes content that is over the limits of a collection, as a mirror that evicts does.
// It returns the number and bytes of the blobs that are left.
func (b *Bucket) Evict(ctx context.Context, whole *config.Config, c evict.Collection) (objects, bytes int64, err error) {
	opts := evictionOptions(whole, b.Store)
	pinned, err := namespace.PinnedContents(ctx, namespace.PinsOptions{
		Catalog: catalog.New(b.Records(), catalog.Options{}), Stores: []storage.Store{b}, MaxManifest: int64(whole.Global.MaxManifestSize), Limit: pinLimit(whole),
	})
	if err != nil {
		return 0, 0, err
	}
	opts.Pinned = func() []digest.Digest { return slices.Collect(maps.Keys(pinned)) }
	opts.Blocks, opts.Lease = blockCaps(whole), b.NewLease()
	if whole.Cache.Redis != nil {
		files, err := readTLSFiles(whole.Cache.Redis.ClientCertificate, whole.Cache.Redis.ClientPrivateKey, whole.Cache.Redis.ServerCABundle)
		if err != nil {
			return 0, 0, fmt.Errorf("cache.redis: %w", err)
		}
		client, err := newRedis(whole.Cache.Redis, files, (&net.Dialer{}).DialContext)
		if err != nil {
			return 0, 0, fmt.Errorf("cache.redis: %w", err)
		}
		defer client.Close()
		turn := newTurn(whole.BlobStore.S3)
		turn.Use(client, whole.Cache.Redis.KeyPrefix)
		opts.Lease = turn
	}
	objects, bytes, err = evict.Collect(ctx, opts, c)
	if errors.Is(err, evict.ErrEvicting) {
		err = fmt.Errorf("%w. Set blob_store.s3.max_size or max_unused of the mirrors, or try again later", err)
	}
	return objects, bytes, err
}

// share asks a prepared client of Redis which mirror evicts.
func (b *bucket) share(next *sharedRedis) {
	if b == nil {
		return
	}
	b.evicting.Lock()
	defer b.evicting.Unlock()
	switch {
	case b.turn == nil:
	case next == nil:
		b.turn.Use(nil, "")
	default:
		b.turn.Use(next.client, next.cfg.KeyPrefix)
	}
}

// stopEvicting ends the eviction while Redis can still learn of it.
func (b *bucket) stopEvicting() {
	if b == nil {
		return
	}
	b.evicting.Lock()
	defer b.evicting.Unlock()
	b.ended = true
	if b.evictor != nil {
		b.evictor.Close()
		b.evictor = nil
	}
}

// tierDriver is the driver of the local tier, as far as the bucket needs it.
type tierDriver interface {
	storage.Driver
	TouchRecord(ctx context.Context, key string, used time.Time) error
}

// newRecords writes records that are not there, and lists those that are.
type newRecords interface {
	PutNew(ctx context.Context, key string, document []byte) error
	RecordKeys(ctx context.Context) iter.Seq2[string, error]
}

// survey tries each use that the mirror makes of the bucket, and logs each failure once.
func (b *bucket) survey(ctx context.Context) {
	said := map[s3.Step]bool{}
	for {
		grave := false
		for _, finding := range b.store.Survey(ctx) {
			grave = grave || finding.Grave
			if ctx.Err() != nil || said[finding.Step] {
				continue
			}
			said[finding.Step] = finding.Err != nil || finding.Note != ""
			switch {
			case finding.Err != nil:
				b.logger.Error("the bucket does not provide everything that the mirror needs. Pulls continue without it", "step", finding.Step, "error", surveyError{finding})
			case finding.Note != "":
				b.logger.Warn("the bucket works, but has a limitation", "step", finding.Step, "note", finding.Note)
			}
		}
		if !grave {
			return
		}
		select {
		case <-time.After(surveyPause):
		case <-ctx.Done():
			return
		}
	}
}

// trouble returns the failure for which the bucket is not used at the moment, or nil.
func (b *bucket) trouble() error {
	if b == nil {
		return nil
	}
	return b.store.Err()
}

// drain waits until content and records are in the bucket.
func (b *bucket) drain(ctx context.Context) error {
	if b == nil {
		return nil
	}
	if err := b.uploads.Drain(ctx); err != nil {
		return err
	}
	return b.records.Drain(ctx)
}

// close ends the work in the background. The rest is uploaded after the next start.
func (b *bucket) close() error {
	b.stop()
	b.surveying.Wait()
	b.uploads.Close() // an upload that ends may begin a removal
	b.removing.Wait()
	b.records.Close()
	b.stopEvicting()
	b.uses.Close()
	return b.store.Close()
}

// origins returns the sources of downloads in front of the upstreams.
func (b *bucket) origins() []download.Origin {
	if b == nil {
		return nil
	}
	return []download.Origin{bucketOrigin{b}}
}

// links returns the place where clients can read content by themselves, or nil.
func (b *bucket) links() namespace.Links {
	if b == nil {
		return nil
	}
	return b.store
}

// bucketCommons are content and links in a bucket.
type bucketCommons struct{ *bucket }

// Await waits for the upload of a blob and of the link to it.
func (c bucketCommons) Await(ctx context.Context, repo storage.RepoID, dgst digest.Digest) error {
	key, err := catalog.LinkKey(repo, dgst)
	if err != nil {
		return err
	}
	c.uploads.Hasten(dgst)
	if err := c.uploads.Await(ctx, dgst); err != nil {
		return err
	}
	return c.records.Await(ctx, key)
}

// Reread makes the next use of a link ask the bucket, if there was none.
func (c bucketCommons) Reread(repo storage.RepoID, dgst digest.Digest) {
	if key, err := catalog.LinkKey(repo, dgst); err == nil {
		c.records.Reread(key)
	}
}

func (bucketCommons) Links() bool { return true }

// Lasting is for how long an absence is remembered. Later the replicas see the link by themselves.
func (c bucketCommons) Lasting() time.Duration { return c.absence }

func (c bucketCommons) Paused() bool { return c.store.Paused() }

// bucketOrigin reads downloads from a bucket.
type bucketOrigin struct{ *bucket }

// Open opens the object from an offset on.
func (o bucketOrigin) Open(ctx context.Context, want download.Want) (*download.Stream, error) {
	dgst := want.Digest
	body, size, err := o.store.OpenAt(ctx, dgst, want.Offset)
	if err != nil {
		o.uploads.Lost(dgst)
		return nil, err
	}
	o.uploads.Comes(dgst)
	return &download.Stream{ReadCloser: body, Size: size, Origin: o.store.Host(), Reject: func() bool {
		o.uploads.Lost(dgst)
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardPatience)
		defer cancel()
		if err := o.store.Discard(limited, dgst); err != nil {
			o.logger.Error("an object in the bucket does not match its digest and cannot be removed. It is no longer read, and the next upload replaces it",
				"digest", dgst, "error", err)
		}
		return true
	}}, nil
}

// BucketReport is the result of one step of a survey, for people.
type BucketReport struct {
	Step   string
	Failed string // "": it did not
	Note   string
}

// SurveyBucket tries each use that a mirror makes of the bucket of a configuration. It writes below
// the prefix only, and removes its objects but the marker.
func SurveyBucket(ctx context.Context, cfg *config.S3) ([]BucketReport, error) {
	store, err := s3.New(translateS3(cfg))
	if err != nil {
		return nil, err
	}
	findings := store.Survey(ctx)
	reports := make([]BucketReport, len(findings))
	for i, finding := range findings {
		reports[i] = BucketReport{Step: string(finding.Step), Note: finding.Note}
		if finding.Err != nil {
			reports[i].Failed = advised(surveyError{finding})
		}
	}
	return slices.Clip(reports), store.Close()
}

// Bucket is the content and the records in a bucket, for commands that run next to the mirrors.
type Bucket struct{ *s3.Store }

// OpenBucket opens the bucket of a configuration. It returns an error if no mirror has used
// the bucket yet.
func OpenBucket(ctx context.Context, cfg *config.S3) (*Bucket, error) {
	store, err := s3.New(translateS3(cfg))
	if err != nil {
		return nil, err
	}
	err = store.Known(ctx)
	if errors.Is(err, storage.ErrNotExist) {
		err = errors.New("no mirror has used the bucket yet. Check blob_store.s3.bucket and key_prefix")
	}
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &Bucket{store}, nil
}

// Quarantine removes a corrupt object: the next pull fetches the content from upstream.
func (b *Bucket) Quarantine(ctx context.Context, dgst digest.Digest) (place string, err error) {
	return "removed from the bucket", b.Discard(ctx, dgst)
}

// surveyError is a failed step. The remedy for a refusal depends on the step.
type surveyError struct{ s3.Finding }

func (e surveyError) Error() string { return e.Err.Error() }

func (e surveyError) Unwrap() error { return e.Err }

// bucketRemedy returns the remedy for a failure of the bucket, or "".
func bucketRemedy(err error) string {
	failed, ok := errors.AsType[*s3.Error](err)
	if !ok {
		return ""
	}
	switch failed.Reason {
	case s3.NoBucket:
		return "Create the bucket, or correct blob_store.s3.bucket or path_style."
	case s3.Denied:
		return deniedRemedy(err)
	case s3.BadCredentials:
		return "Check blob_store.s3.access_key_id and secret_key or, without them, the role of this machine or pod."
	case s3.WrongRegion:
		if failed.Region != "" {
			return "Set blob_store.s3.region to " + failed.Region + ", and blob_store.s3.endpoint to the endpoint of this region."
		}
		return "Set blob_store.s3.region and endpoint to those of the bucket."
	case s3.WrongClock:
		return "Synchronize the clock of this machine."
	case s3.Throttled:
		return "Weir tries again later. If this persists, ask the provider for a higher limit, or raise blob_store.fs.max_size."
	case s3.Unreachable:
		return "Check blob_store.s3.endpoint and path_style, and the network to it."
	case s3.Format:
		return "Update Weir, or set blob_store.s3.key_prefix to an unused one."
	default:
		return ""
	}
}

// deniedRemedy names the permission that a step of a survey lacks.
func deniedRemedy(err error) string {
	const all = "Allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject on the keys below blob_store.s3.key_prefix."
	failed, ok := errors.AsType[surveyError](err)
	if !ok {
		return all
	}
	switch failed.Step {
	case s3.StepList:
		return "Allow s3:ListBucket on the bucket. Without it, the records of other mirrors are not compared after a restart, and nothing is evicted from the bucket."
	case s3.StepDelete:
		return "Allow s3:DeleteObject on the keys below blob_store.s3.key_prefix. Without it, corrupt objects stay, and nothing is evicted from the bucket."
	case s3.StepWrite:
		return "Allow s3:PutObject on the keys below blob_store.s3.key_prefix."
	case s3.StepRead, s3.StepPresign:
		return "Allow s3:GetObject on the keys below blob_store.s3.key_prefix."
	default:
		return all
	}
}
