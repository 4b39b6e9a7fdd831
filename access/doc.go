// Package access decides which clients may have an answer.
//
// [Rules] are the whole of a configuration's access rules, and answer two questions.
// [Rules.Identify] identifies the sender of a request by its credentials, its client
// certificate and its address ([Presented]). [Rules.Permit] decides whether that identity
// may have what it requests ([Question]).
//
// Identification takes these steps, each in a file of its own:
//
//   - a client certificate that the TLS listener has verified (certificate.go);
//   - the Authorization header: Bearer tokens and Basic passwords (authorization.go);
//   - a password is compared with the hash of its account (password.go, accounts.go);
//   - a token is one of Weir's own (token.go), or of an OpenID Connect issuer whose keys
//     verify it (bearer.go, issuer.go, keys.go);
//   - credentials that were right are remembered (known.go) by tags (tag.go);
//   - groups are added (groups.go).
//
// Permission passes layers (layers.go): the names that exist (names.go), the lists
// allow (subject.go) and rules in CEL (policy.go), whose "yes" is remembered
// (verdicts.go), and a service that is asked (webhook.go).
//
// Rules are immutable, with all caches of verdicts in them, so a reload makes new ones
// and [Current] swaps them. Its errors are typed reasons without a word of a credential;
// the caller turns them into answers.
//
// The package knows neither handlers nor storage nor the configuration. It opens no
// file, asks only issuers for their keys and webhooks for their verdicts, and takes no
// lock that a pull needs.
package access
