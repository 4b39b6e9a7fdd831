package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/internal/notify"
	"github.com/weirhq/weir/internal/whoami"
	"github.com/weirhq/weir/namespace"
	"github.com/weirhq/weir/storage"
	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/storage/evict"
	"github.com/weirhq/weir/storage/memcache"
	"github.com/weirhq/weir/storage/tier"
)

const (
	// hotBytes bounds the memory for manifests and other small content. A
	// manifest has a few KiB, so this holds the manifests of thousands of images.
	hotBytes = 32 << 20
	// hotObject is the size of the largest content that is kept in memory. Few
	// manifests and configurations are larger; layers gain nothing from memory.
	hotObject = 1 << 20

	// recordShare is the part of max_size, and of the filesystem beyond min_free, that
	// records may take. A record has some 300 bytes, and the blobs that it is about
	// have 10 MB on average.
	recordShare = 16
	// recordBlocks is how many bytes of the filesystem a record takes with its
	// directory: a block for each.
	recordBlocks = 8 << 10
	// quarantineShare is the part of max_size that damaged content may take in addition, and
	// maxQuarantine its highest value.
	quarantineShare = 20
	maxQuarantine   = 1 << 30
	// minRecordBytes leaves room for the records of a small store.
	minRecordBytes = 1 << 20
	// passingUnused is how long small content, and content that cannot be uploaded, stays on a
	// local tier that keeps no content.
	passingUnused = time.Hour
	// maxRecordBytes bounds the records of a large store, or of one without max_size.
	maxRecordBytes = 1 << 30
	// maxRecords bounds their number: a store of that many blobs has some 5 TB.
	// Each takes a block of the filesystem, 4 KiB, so all take 2 GiB at most.
	maxRecords = 500_000
)

// storageParts are the layers that content passes through on its way into the
// store and out of it. They are opened once: a changed configuration of the store
// takes effect at the next start.
type storageParts struct {
	logger      *slog.Logger
	driver      *disk.Store
	store       *evict.Store
	top         storage.Store              // of the stack: store or, with a bucket, a tier in front of it
	bucket      *bucket                    // nil: there is none
	uses        atomic.Pointer[evict.Uses] // of the bucket
	catalog     *catalog.Catalog
	pins        *namespace.Pins
	pinned      atomic.Pointer[[]digest.Digest] // blobs of the pins, for the bucket
	content     *storage.Health
	records     *storage.Health
	quarantined prometheus.Counter
	evictions   *evict.Metrics
	name        func() string // of this mirror among those on one bucket

	stop    context.CancelFunc // of the keeping of records
	keeping sync.WaitGroup
	stuck   *lru.Cache[digest.Digest, struct{}] // damaged content that cannot be quarantined
}

// maxStuck is how much damaged content is remembered as reported. After that many
// lines of the log, one may come once more.
const maxStuck = 1024

// newStorageParts returns the parts over a driver that no limit decides about.
func newStorageParts(driver *disk.Store, metrics prometheus.Registerer, logger *slog.Logger) *storageParts {
	stuck, err := lru.New[digest.Digest, struct{}](maxStuck)
	if err != nil {
		panic(err) // cannot be: the size is positive
	}
	return &storageParts{
		stuck:     stuck,
		logger:    logger,
		driver:    driver,
		catalog:   catalog.New(driver.Records(), catalog.Options{Logger: logger, Touch: driver.TouchRecord}),
		content:   storage.NewHealth(logger, "content"),
		records:   storage.NewHealth(logger, "records of tags and possession"),
		evictions: evict.NewMetrics(metrics),
		name:      sync.OnceValue(func() string { return nameOf(driver.Records()) }),
	}
}

// openStorage opens the store of a configuration.
func openStorage(whole *config.Config, metrics prometheus.Registerer, logger *slog.Logger) (*storageParts, error) {
	blobs := whole.BlobStore
	cfg := blobs.FS
	maxSize, maxUnused := localLimits(cfg)
	// The driver's spools take part in the quota, so it comes first.
	quota, usage, others := evict.NewQuota(maxSize), new(catalog.Usage), notify.NewSignal()
	driver, err := disk.Open(cfg.RootDir, disk.Options{
		Durability: durability(cfg.SyncToDisk), MinFree: int64(cfg.MinFree), Quota: quota, MaxQuarantine: quarantineLimit(maxSize), Logger: logger,
		Listed:   maxSize > 0 || maxUnused > 0 || hasCaps(whole), // for the index
		OnOthers: others.Notify,
		OnRecord: func(bytes, records int64) {
			usage.Add(bytes, records)
			quota.AddRecords(bytes)
		},
	})
	if err != nil {
		return nil, WithAdvice(err)
	}
	s := newStorageParts(driver, metrics, logger)
	s.measure(cfg, metrics)
	// From the disk upwards: small content in memory, then eviction, which
	// must see each use, also one that memory answers.
	hot := memcache.New(driver, memcache.Options{MaxBytes: hotBytes, MaxObject: hotObject, Keeps: isDocument, OnCorrupt: s.quarantine})
	s.store = evict.New(hot, quota, evict.Options{
		MaxManifest: int64(whole.Global.MaxManifestSize),
		MinFree:     int64(cfg.MinFree),
		Free:        driver.Spools().Free,
		MaxUnused:   maxUnused,
		Lazy:        true,
		Holds:       true,
		Touch:       s.touch,
		Owners:      driver.Records(),
		Blocks:      blockCaps(whole),
		Referred:    s.referred,
		Changed:     others.C(),
		Metrics:     s.evictions,
		Logger:      logger,
	})
	// The records of this machine have limits, whether they are in a bucket too or not.
	local := s.catalog
	if s.top = s.store; blobs.S3 != nil {
		if s.bucket, err = openBucket(whole, driver, s.store.Owner, s.forget(cfg), s.pinnedContents, metrics, logger); err != nil {
			return nil, errors.Join(err, s.store.Close(), driver.Close())
		}
		s.uses.Store(s.bucket.uses)
		s.top = tier.NewStore(s.store, s.bucket.uploads)
		s.catalog = catalog.New(s.bucket.records, catalog.Options{Logger: logger, Shared: true})
	}
	s.keep(local, catalog.KeepOptions{
		Records: driver, Usage: usage, Counted: quota.AddRecords, Logger: logger,
		Limits: func() catalog.Limits { return s.recordLimits(cfg, quota) },
	})
	s.pins = s.openPins(whole, maxSize)
	return s, nil
}

const (
	// nameKey is the key of the record with the name of a mirror. It is of no sort of the
	// catalog's, so it stays on this machine.
	nameKey = "_mirror"
	// nameBytes is the length of a name before it is encoded: two of some thousand mirrors are
	// never the same.
	nameBytes = 8
)

// nameOf returns the name of the mirror that has some records, and writes it if there is none.
// A mirror that cannot write it has another name after a restart.
func nameOf(records storage.Records) string {
	ctx := context.Background()
	known, err := records.Get(ctx, nameKey)
	if name, invalid := hex.DecodeString(string(known)); err == nil && invalid == nil && len(name) == nameBytes {
		return hex.EncodeToString(name)
	}
	random := make([]byte, nameBytes)
	_, _ = rand.Read(random) // it never fails
	name := hex.EncodeToString(random)
	_ = records.Put(ctx, nameKey, []byte(name)) // the record of pulls fails next, and is reported
	return name
}

// blockCaps returns the keys of all repository blocks, each with the cap on the content that it
// brought in; 0: none.
func blockCaps(cfg *config.Config) map[string]int64 {
	caps := make(map[string]int64, len(cfg.Namespaces))
	for _, n := range cfg.Namespaces {
		caps[n.Key] = int64(n.MaxSize)
	}
	return caps
}

// Cap is how many bytes of content the blocks of a configuration may have, for commands beside a mirror.
type Cap struct {
	Owner func(digest.Digest) string // of a blob; "": it is not known
	Bytes map[string]int64           // by owner; 0: no cap
}

// Caps returns the caps of the blocks of a configuration on the content of a store; nil if there are none.
func Caps(ctx context.Context, cfg *config.Config, store storage.Driver) (*Cap, error) {
	if !hasCaps(cfg) {
		return nil, nil //nolint:nilnil // no caps are an answer
	}
	owner, err := evict.ReadOwners(ctx, store.Records())
	if err != nil {
		return nil, fmt.Errorf("cannot apply max_size of repository blocks, because the records of which block brought content in cannot be read: %w", err)
	}
	return &Cap{owner, blockCaps(cfg)}, nil
}

// HasCaps reports whether a repository block of a configuration has a cap.
func HasCaps(cfg *config.Config) bool { return hasCaps(cfg) }

// hasCaps reports whether a repository block has a cap.
func hasCaps(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Namespaces, func(n config.Namespace) bool { return n.MaxSize > 0 })
}

// localLimits returns the limits of the content of this machine; 0: there is none.
func localLimits(cfg config.FS) (maxSize int64, maxUnused time.Duration) {
	maxSize, maxUnused = int64(cfg.MaxSize), time.Duration(cfg.MaxUnused)
	if cfg.MaxSize != config.NothingKept {
		return maxSize, maxUnused
	}
	if maxUnused == 0 || maxUnused > passingUnused {
		maxUnused = passingUnused
	}
	return 0, maxUnused
}

// recordLimits returns the limits of the records of this machine, which count in the space that
// is left.
func (s *storageParts) recordLimits(cfg config.FS, quota *evict.Quota) catalog.Limits {
	limits := recordLimits(cfg)
	held, known := quota.Held()
	if !known && s.driver.Counted() { // the index is not needed
		held, _ = s.driver.Size()
		known = true
	}
	if free, err := s.driver.Spools().Free(); cfg.MinFree > 0 && known && err == nil {
		limits.Records = min(limits.Records, recordsWithin(held+free-int64(cfg.MinFree)))
	}
	return limits
}

// keep keeps the records of this machine within limits, until the storage is closed.
func (s *storageParts) keep(local *catalog.Catalog, opts catalog.KeepOptions) {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.keeping.Go(func() { local.Keep(ctx, opts) })
}

// touch notes the use of a blob of this machine, for the bucket too.
func (s *storageParts) touch(ctx context.Context, dgst digest.Digest, used time.Time) error {
	if uses := s.uses.Load(); uses != nil {
		uses.UsedAt(dgst, used)
	}
	return s.driver.Touch(ctx, dgst, used)
}

// referred notes the use of a blob that is in the bucket perhaps.
func (s *storageParts) referred(dgst digest.Digest) {
	if uses := s.uses.Load(); uses != nil {
		uses.Used(dgst)
	}
}

// forget returns a function that removes content of the local tier as soon as it is in the
// bucket, or nil if the tier keeps content. Manifests and other small content stay for a
// time: they are asked for by each pull, and memory holds them.
func (s *storageParts) forget(cfg config.FS) func(context.Context, storage.Info) error {
	if cfg.MaxSize != config.NothingKept {
		return nil
	}
	return func(ctx context.Context, info storage.Info) error {
		if info.Size <= hotObject {
			return nil
		}
		return s.store.Delete(ctx, info.Digest)
	}
}

// quarantineLimit returns how many bytes of damaged content are kept for an operator: a
// twentieth of max_size, beside which they lie.
func quarantineLimit(maxSize int64) int64 {
	if maxSize == 0 {
		return maxQuarantine
	}
	return max(1, min(maxSize/quarantineShare, maxQuarantine)) // 0 would be no limit
}

// recordsWithin returns how many records a filesystem may have, of which content, running
// downloads and free space beyond min_free are that many bytes: their blocks may take a
// sixteenth of them. Without it, records could fill a small filesystem beyond min_free,
// and the content would go for them.
func recordsWithin(bytes int64) int64 {
	return max(bytes/recordShare, minRecordBytes) / recordBlocks
}

// recordLimits returns the limits of the records: a sixteenth of the store's, and a
// number of files that no disk lacks the inodes for.
func recordLimits(cfg config.FS) catalog.Limits {
	limits := catalog.Limits{Bytes: maxRecordBytes, Records: maxRecords, Unused: time.Duration(cfg.MaxUnused)}
	if share := int64(cfg.MaxSize) / recordShare; share > 0 {
		limits.Bytes = min(maxRecordBytes, max(share, minRecordBytes))
	}
	return limits
}

// quarantine takes content that is corrupt or cannot be read out of the store, so that
// the next pull downloads it again.
func (s *storageParts) quarantine(ctx context.Context, dgst digest.Digest) error {
	path, err := s.driver.Quarantine(ctx, dgst)
	if err == nil {
		s.quarantined.Inc()
		s.logger.Error("stored content has become corrupt and was quarantined. Check the disk, and run weir verify", "digest", dgst, "path", path)
	}
	s.reportStuck(dgst, err)
	return err
}

// damaged takes content that does not have its recorded size out of the store.
func (s *storageParts) damaged(ctx context.Context, stored storage.Info, size int64) {
	// Another request may have brought it back meanwhile.
	if now, err := s.driver.Stat(ctx, stored.Digest); err != nil || now.Size != stored.Size {
		return
	}
	path, err := s.driver.Quarantine(ctx, stored.Digest)
	if err == nil {
		s.quarantined.Inc()
		s.logger.Error("stored content was truncated or has grown, and was quarantined. Check the disk, and run weir verify",
			"digest", stored.Digest, "path", path, "bytes", stored.Size, "recorded", size)
	}
	s.reportStuck(stored.Digest, err)
}

// brokeOff takes content out of the store whose file cannot be read to its end, and
// reports whether that was the cause of an answer that broke off. Without it, each later
// client would get the same part of the content.
func (s *storageParts) brokeOff(ctx context.Context, dgst digest.Digest, err error) bool {
	if !disk.IsDamage(err) {
		return false
	}
	path, moved := s.driver.Quarantine(ctx, dgst)
	if moved == nil {
		s.quarantined.Inc()
		s.logger.Error("stored content cannot be read completely, and was quarantined. Check the disk, and run weir verify",
			"digest", dgst, "path", path, "error", err)
	}
	s.reportStuck(dgst, moved)
	return true
}

// reportStuck logs once that damaged content could not be quarantined. It stays
// until a download replaces it.
func (s *storageParts) reportStuck(dgst digest.Digest, err error) {
	if err == nil || errors.Is(err, storage.ErrNotExist) { // another request was first
		return
	}
	if seen, _ := s.stuck.ContainsOrAdd(dgst, struct{}{}); !seen {
		s.logger.Error("stored content is damaged and cannot be quarantined. Clients get it from upstream",
			"digest", dgst, "user", whoami.User(), "error", err)
	}
}

// isDocument reports whether a small blob is a manifest or a configuration, by its first byte:
// these are JSON. Memory is not for small layers, which each node pulls once.
func isDocument(first byte) bool {
	return first == '{' || first == ' ' || first == '\n' || first == '\t' || first == '\r'
}

// durability returns when content of the disk survives a power cut.
func durability(sync config.SyncToDisk) disk.Durability {
	switch sync {
	case config.SyncAlways:
		return disk.Always
	case config.SyncNever:
		return disk.Never
	default:
		return disk.Behind
	}
}

func (s *storageParts) close() {
	s.stop()
	s.keeping.Wait()
	s.pins.Close()
	if err := s.store.Close(); err != nil {
		s.logger.Warn("cannot record when content was last used. It may be evicted too early", "error", err)
	}
	// The last uses are announced in the bucket too.
	if s.bucket != nil {
		if err := s.bucket.close(); err != nil {
			s.logger.Warn("closing the bucket", "error", err)
		}
	}
	if err := s.driver.Close(); err != nil {
		s.logger.Warn("closing the store", "error", err)
	}
}
