package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/lifecycle"

	"github.com/weirhq/weir/internal/printable"
	"github.com/weirhq/weir/storage"
)

const (
	markerName = "weir.json"
	probeName  = "probe"
	// format is that of the keys in a bucket. A version that cannot read older keys
	// counts it up.
	format = 1
	// maxMarker bounds the marker, which another program may have written.
	maxMarker = 4 << 10
	// maxSkew is how far two clocks may differ: S3 refuses requests from 15 minutes on.
	maxSkew = 5 * time.Minute
	// presignedFor is how long the URL of the probe is good.
	presignedFor = time.Minute
)

// marker is the object that says that Weir's keys are below a prefix.
type marker struct {
	Format int `json:"format"`
}

// Step is a part of a survey.
type Step string

// The steps of a survey, in their order.
const (
	StepBucket     Step = "bucket"     // it is there, or was made
	StepPrefix     Step = "prefix"     // the keys below it are of this format
	StepWrite      Step = "write"      // an object can be written
	StepConditions Step = "conditions" // an object is not replaced against a condition
	StepRead       Step = "read"       // the object is as it was written
	StepList       Step = "list"       // it is listed
	StepPresign    Step = "presign"    // a URL leads to it without credentials
	StepDelete     Step = "delete"     // it can be deleted
	StepLifecycle  Step = "lifecycle"  // incomplete uploads are removed
	StepClock      Step = "clock"      // that of this machine is right
)

// Finding is the result of one step.
type Finding struct {
	Step Step
	Err  error  // the step failed
	Note string // it did not, and this is worth knowing
	// Grave is set if nothing works without the step.
	Grave bool
}

// Survey tries each use that Weir makes of the bucket, and makes the bucket if it is missing and
// Options.CreateBucket allows it. It writes below probe/ and the marker only. After a
// grave failure there are no further findings.
func (s *Store) Survey(ctx context.Context) []Finding {
	ctx = context.WithValue(ctx, surveyed{}, true)
	var findings []Finding
	note := func(step Step, text string, err error) bool {
		grave := err != nil && (step == StepBucket || step == StepPrefix || step == StepWrite)
		findings = append(findings, Finding{Step: step, Note: text, Err: err, Grave: grave})
		return !grave
	}
	key, document := s.key(probeName+"/"+rand.Text()), []byte(rand.Text())
	made, err := s.ensureBucket(ctx)
	// The listing is a step of its own, if that is all that is denied.
	unlisted := ReasonOf(err) == Denied && s.isReadable(ctx, key, document)
	s.unlisted.Store(unlisted)
	if unlisted {
		err = nil
	}
	if !note(StepBucket, noteIf(made, "the bucket was missing and was created"), err) {
		return findings
	}
	foreign, err := s.claim(ctx)
	if !note(StepPrefix, foreign, err) {
		s.refuse(err)
		return findings
	}
	if !note(StepWrite, "", s.putSmall(ctx, opSurvey, key, document, false)) {
		return findings
	}
	text, err := s.tryCondition(ctx, key)
	note(StepConditions, text, err)
	note(StepRead, "", s.tryRead(ctx, key, document))
	note(StepList, "", s.tryList(ctx, key))
	note(StepPresign, "", s.tryPresigned(ctx, key, document))
	note(StepDelete, "", s.tryDelete(ctx, key))
	text, err = s.lifecycle(ctx, made)
	note(StepLifecycle, text, err)
	note(StepClock, s.skewed(), nil)
	return findings
}

func noteIf(yes bool, text string) string {
	if yes {
		return text
	}
	return ""
}

// ensureBucket makes the bucket if there is none and that is wanted.
func (s *Store) ensureBucket(ctx context.Context) (made bool, err error) {
	// A listing of one key needs no right that Weir does not need anyway; the question
	// for the bucket itself does at some servers.
	err = s.first(ctx, "")
	if ReasonOf(err) != NoBucket || !s.opts.CreateBucket {
		return false, err
	}
	err = s.call(ctx, opSurvey, func(ctx context.Context) error {
		err := s.client.MakeBucket(ctx, s.opts.Bucket, minio.MakeBucketOptions{Region: s.opts.Region})
		if answer, ok := errors.AsType[minio.ErrorResponse](err); ok && answer.Code == "BucketAlreadyOwnedByYou" {
			return nil // another replica was faster
		}
		return err
	})
	return err == nil, err
}

// isReadable reports whether an object can be written and read.
func (s *Store) isReadable(ctx context.Context, key string, document []byte) bool {
	if err := s.putSmall(ctx, opSurvey, key, document, false); err != nil {
		return false
	}
	read, err := s.readSmall(ctx, key, maxMarker)
	// A later step may end the survey. Whether it can be deleted is a step of its own.
	_ = s.call(ctx, opSurvey, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.opts.Bucket, key, minio.RemoveObjectOptions{})
	})
	return err == nil && bytes.Equal(read, document)
}

// first asks for the first key that begins with prefix. It reports whether the bucket is
// there and can be listed.
func (s *Store) first(ctx context.Context, prefix string) error {
	return s.call(ctx, opSurvey, func(ctx context.Context) error {
		for object := range s.client.ListObjectsIter(ctx, s.opts.Bucket, minio.ListObjectsOptions{Prefix: prefix, MaxKeys: 1}) {
			return object.Err
		}
		return ctx.Err()
	})
}

// Known returns an error unless this version of Weir knows the format of the keys below the
// prefix. It matches storage.ErrNotExist if no mirror has used the prefix yet.
func (s *Store) Known(ctx context.Context) error {
	key := s.key(markerName)
	document, err := s.readSmall(ctx, key, maxMarker)
	if err != nil {
		return err
	}
	var m marker
	if err := json.Unmarshal(document, &m); err != nil || m.Format < 1 {
		return &Error{Operation: string(opSurvey), Reason: Format, err: fmt.Errorf("the object %s is not a marker of Weir", key)}
	}
	if m.Format > format {
		return &Error{Operation: string(opSurvey), Reason: Format, err: fmt.Errorf("the keys below the prefix have format %d, but this version only supports %d", m.Format, format)}
	}
	return nil
}

// claim reads the marker below the prefix, and writes it if there is none. It also reports
// which other keys are there.
func (s *Store) claim(ctx context.Context) (foreign string, err error) {
	known := s.Known(ctx)
	if known != nil && !errors.Is(known, storage.ErrNotExist) {
		return "", known
	}
	unlisted := s.unlisted.Load()
	if !unlisted {
		foreign, err = s.others(ctx)
	}
	if known == nil { // the listing is a step of its own
		return foreign, nil
	}
	if err != nil {
		return "", err
	}
	document, err := json.Marshal(marker{format})
	if err != nil {
		return "", err
	}
	// A marker that cannot be read looks like a missing one if nothing may be listed.
	return foreign, s.putSmall(ctx, opSurvey, s.key(markerName), document, unlisted)
}

// others returns a note about the keys below the prefix that are not Weir's, or "".
func (s *Store) others(ctx context.Context) (string, error) {
	prefix := s.opts.KeyPrefix
	if prefix != "" {
		prefix += "/"
	}
	var found []string
	err := s.call(ctx, opSurvey, func(ctx context.Context) error {
		seen := 0
		// Without Recursive a listing has one entry for all keys below a slash.
		for object := range s.client.ListObjectsIter(ctx, s.opts.Bucket, minio.ListObjectsOptions{Prefix: prefix, MaxKeys: 100}) {
			if object.Err != nil {
				return object.Err
			}
			switch name := strings.TrimPrefix(object.Key, prefix); name {
			case blobsName + "/", recordsName + "/", evictionName + "/", probeName + "/", markerName:
			default:
				found = append(found, printable.Line(object.Key, 60))
			}
			if seen++; seen == 100 || len(found) == 3 {
				break
			}
		}
		return ctx.Err()
	})
	if err != nil || len(found) == 0 {
		return "", err
	}
	return "there are keys of another program, such as " + strings.Join(found, ", ") + ". Weir does not change them", nil
}

// readSmall reads an object of at most limit bytes.
func (s *Store) readSmall(ctx context.Context, key string, limit int64) (document []byte, err error) {
	err = s.call(ctx, opRead, func(ctx context.Context) error {
		stream, object, _, err := s.client.GetObject(ctx, s.opts.Bucket, key, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer stream.Close()
		if object.Size < 0 || object.Size > limit {
			return fmt.Errorf("%w: %d bytes", errTooLong, object.Size)
		}
		document = make([]byte, object.Size)
		_, err = io.ReadFull(stream, document)
		return err
	})
	return document, err
}

// tryCondition writes an object that is there, on the condition that it is not.
func (s *Store) tryCondition(ctx context.Context, key string) (note string, err error) {
	err = s.putSmall(ctx, opSurvey, key, []byte("replaced"), true)
	const harmless = ". Two replicas may upload the same content twice, which only costs the transfer. Without Redis, set the limits of the bucket on one mirror only"
	switch {
	case err == nil:
		// The other steps compare the object.
		return "the server ignores If-None-Match" + harmless, nil
	case ReasonOf(err) == Conflict:
		return "", nil
	case refusesCondition(err):
		s.unconditional.Store(true)
		return "the server refuses If-None-Match" + harmless, nil
	default:
		return "", err
	}
}

// refusesCondition reports whether a server knows no conditions, if the same write without one was
// allowed before. Not all of them say so with 501: some take the header for a wrong argument.
func refusesCondition(err error) bool {
	failed, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch failed.Reason {
	case Unsupported:
		return true
	case Other:
		return failed.Status >= http.StatusBadRequest && failed.Status < http.StatusInternalServerError
	default:
		return failed.Status == http.StatusMethodNotAllowed
	}
}

func (s *Store) tryRead(ctx context.Context, key string, written []byte) error {
	read, err := s.readSmall(ctx, key, maxMarker)
	if err == nil && !bytes.Equal(read, written) && string(read) != "replaced" {
		err = errors.New("the object differs from what was written")
	}
	return err
}

func (s *Store) tryList(ctx context.Context, key string) error {
	for object, err := range s.list(ctx, s.below(probeName)) {
		if err != nil || object.Key == key {
			return err
		}
	}
	return errors.New("the listing lacks an object that was just written")
}

// tryPresigned reads an object by a URL without credentials, as a client does.
func (s *Store) tryPresigned(ctx context.Context, key string, written []byte) error {
	return s.call(ctx, opSurvey, func(ctx context.Context) error {
		target, err := s.client.PresignedGetObject(ctx, s.opts.Bucket, key, presignedFor, nil)
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		if err != nil {
			return err
		}
		// The server must not lead the survey to other hosts.
		client := &http.Client{Transport: s.http, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		answer, err := client.Do(request)
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err // without the URL, which is a secret for a while
		}
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		read, err := io.ReadAll(io.LimitReader(answer.Body, maxMarker))
		if err == nil && (answer.StatusCode != http.StatusOK || !bytes.Equal(read, written) && string(read) != "replaced") {
			err = minio.ErrorResponse{StatusCode: answer.StatusCode, Code: "Presigned", Message: "a presigned URL does not lead to the object"}
		}
		return err
	})
}

func (s *Store) tryDelete(ctx context.Context, key string) error {
	if err := s.remove(ctx, key); err != nil {
		return err
	}
	if _, err := s.head(ctx, key); !errors.Is(err, storage.ErrNotExist) {
		return errors.Join(errors.New("the object is still there after its deletion"), err)
	}
	return nil
}

// lifecycle looks for a rule that removes incomplete uploads, and sets one if the bucket
// is new.
func (s *Store) lifecycle(ctx context.Context, made bool) (note string, err error) {
	if made {
		rules := lifecycle.NewConfiguration()
		rules.Rules = []lifecycle.Rule{{
			ID: "weir-incomplete-uploads", Status: "Enabled",
			AbortIncompleteMultipartUpload: lifecycle.AbortIncompleteMultipartUpload{DaysAfterInitiation: 1},
		}}
		err = s.call(ctx, opSurvey, func(ctx context.Context) error { return s.client.SetBucketLifecycle(ctx, s.opts.Bucket, rules) })
		if err == nil {
			return "the rule that removes incomplete uploads after a day was set", nil
		}
		return unruled(err), nil
	}
	var rules *lifecycle.Configuration
	err = s.call(ctx, opSurvey, func(ctx context.Context) error {
		rules, err = s.client.GetBucketLifecycle(ctx, s.opts.Bucket)
		if answer, ok := errors.AsType[minio.ErrorResponse](err); ok && answer.Code == "NoSuchLifecycleConfiguration" {
			rules, err = lifecycle.NewConfiguration(), nil
		}
		return err
	})
	if err != nil {
		return unruled(err), nil
	}
	for _, rule := range rules.Rules {
		if rule.Status == "Enabled" && rule.AbortIncompleteMultipartUpload.DaysAfterInitiation > 0 {
			return "", nil
		}
	}
	return "no rule removes incomplete uploads, which cost space. Set AbortIncompleteMultipartUpload to a day", nil
}

// unruled returns why nothing is known about the rules of a bucket. No pull needs them.
func unruled(err error) string {
	return "the rules that remove incomplete uploads cannot be read or set: " + printable.Line(err.Error(), maxMessage)
}

// skewed returns a note if the clocks of this machine and of the server differ.
func (s *Store) skewed() string {
	skew := time.Duration(s.transport.skew.Load()).Round(time.Second)
	if skew.Abs() < maxSkew {
		return ""
	}
	direction := "behind"
	if skew < 0 {
		direction = "ahead of"
	}
	return fmt.Sprintf("the clock of this machine is %s %s that of the bucket's server. Synchronize it", skew.Abs(), direction)
}
