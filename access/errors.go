package access

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
	LayerIdentity Layer = "identity" // the request has no credentials and needs some
)

func layers() []Layer { return []Layer{LayerIdentity} }

// DeniedError says that an identity may not have an answer.
type DeniedError struct {
	Layer     Layer
	Anonymous bool   // credentials may help
	Who       string // name of the identity
	Block     string // key of the repository block; empty: the request is for none
	Reason    string // for the client
}

func (e *DeniedError) Error() string { return e.Reason }
