package app

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/storage/s3"
)

// Each failure of a bucket has its remedy, and that of a refusal depends on the step.
func TestBucketAdvice(t *testing.T) {
	for _, tc := range []struct {
		reason s3.Reason
		region string
		step   s3.Step
		want   string
	}{
		{reason: s3.NoBucket, want: "Create the bucket"},
		{reason: s3.Denied, want: "Allow s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject and s3:DeleteObject"},
		{reason: s3.Denied, step: s3.StepDelete, want: "Allow s3:DeleteObject"},
		{reason: s3.Denied, step: s3.StepList, want: "Allow s3:ListBucket on the bucket."},
		{reason: s3.Denied, step: s3.StepWrite, want: "Allow s3:PutObject"},
		{reason: s3.Denied, step: s3.StepPresign, want: "Allow s3:GetObject"},
		{reason: s3.Denied, step: s3.StepLifecycle, want: "Allow s3:ListBucket on the bucket, and"},
		{reason: s3.BadCredentials, want: "Check blob_store.s3.access_key_id and secret_key"},
		{reason: s3.WrongRegion, want: "Set blob_store.s3.region and endpoint"},
		{reason: s3.WrongRegion, region: "eu-west-1", want: "Set blob_store.s3.region to eu-west-1"},
		{reason: s3.WrongClock, want: "Synchronize the clock"},
		{reason: s3.Throttled, want: "Weir tries again later"},
		{reason: s3.Unreachable, want: "Check blob_store.s3.endpoint"},
		{reason: s3.Format, want: "Update Weir"},
	} {
		var err error = &s3.Error{Operation: "get", Reason: tc.reason, Region: tc.region}
		if tc.step != "" {
			err = surveyError{s3.Finding{Step: tc.step, Err: err}}
		}
		if got := remedyOf(fmt.Errorf("%w: %w", s3.ErrPaused, err)); !strings.HasPrefix(got, tc.want) {
			t.Errorf("reason %d, step %q: %q, want %q", tc.reason, tc.step, got, tc.want)
		}
	}
	if got := remedyOf(&s3.Error{Reason: s3.Missing}); got != "" {
		t.Errorf("a missing object: %q", got)
	}
	if got := remedyOf(errors.New("other")); got != "" {
		t.Errorf("another failure: %q", got)
	}
}

// Every key of the configuration reaches the bucket.
func TestTranslateS3(t *testing.T) {
	opts := translateS3(&config.S3{
		Bucket: "b", CreateBucket: true, Region: "r", AccessKeyID: "id", SecretKey: "s", KeyPrefix: "p", PathStyle: config.PathStyleNever,
		PartSize: 1, PresignTTL: 5 * time.Second, RedirectEndpoint: config.URL{Scheme: "https", Host: "outside"}, MaxAttempts: 2, OperationTimeout: 3 * time.Second, AttemptTimeout: 4 * time.Second,
	})
	if opts.Bucket != "b" || !opts.CreateBucket || opts.Region != "r" || opts.AccessKeyID != "id" || opts.SecretKey != "s" || opts.KeyPrefix != "p" ||
		opts.PresignTTL != 5*time.Second || opts.RedirectEndpoint.Host != "outside" || opts.PathStyle != s3.PathNever || opts.PartSize != 1 || opts.MaxAttempts != 2 || opts.OperationTimeout != 3*time.Second || opts.AttemptTimeout != 4*time.Second {
		t.Errorf("%+v", opts)
	}
}
