package access

import "fmt"

// CredentialsError says that a request has credentials that are not valid. The client
// is not told the reason, since that would tell a guess how near it is.
type CredentialsError struct {
	Method Method
	Reason string // for the log
}

func (e *CredentialsError) Error() string {
	return "the credentials of the request are not valid (" + string(e.Method) + ": " + e.Reason + ")"
}

// BusyError says that too many passwords wait to be compared with their hashes.
type BusyError struct{}

func (*BusyError) Error() string {
	return "too many logins at once: passwords that were not used within the last minute wait to be checked"
}

// Layer is the rule that denies a request.
type Layer string

// Layers, in the order in which a request passes them.
const (
	LayerImages         Layer = "images"          // the block hides the name
	LayerIdentity       Layer = "identity"        // the request has no credentials and needs some
	LayerAllow          Layer = "allow"           // the block has a list, and the identity is not in it
	LayerPolicy         Layer = "policy"          // of all requests
	LayerBlockPolicy    Layer = "block_policy"    // of the block
	LayerWebhook        Layer = "webhook"         // the webhook denies
	LayerWebhookFailure Layer = "webhook_failure" // the webhook cannot decide
)

func allLayers() []Layer {
	return []Layer{LayerImages, LayerIdentity, LayerAllow, LayerPolicy, LayerBlockPolicy, LayerWebhook, LayerWebhookFailure}
}

// DeniedError says that an identity may not have an answer.
type DeniedError struct {
	Layer     Layer
	Anonymous bool   // credentials may help
	Who       string // name of the identity
	Action    Action
	Block     string // key of the repository block; empty: the request is for none
	Name      string // of the repository below it
	Cause     error  // for the log: the failure of a rule or a webhook; nil: the layer has decided
}

func (e *DeniedError) Error() string {
	text := fmt.Sprintf("%s is refused to %s (%s)", e.Action, e.Who, e.Layer)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

func (e *DeniedError) Unwrap() error { return e.Cause }
