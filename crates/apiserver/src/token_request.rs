//! The subresource `token` of service accounts: tokens on request (`authentication.k8s.io/v1 TokenRequest`).

use dray_access::{User, node_of};
use dray_machinery::{FieldErrors, Status, object, time};
use dray_store::Key;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    authenticate::own_audiences,
    decode, respond,
    respond::Answer,
    server::Inner,
    tokens::{Claims, ISSUER, Named, Private},
    write::Change,
};

/// How long a token holds unless somebody says otherwise, the least, and the most, in seconds.
const SECONDS: i64 = 3600;
const LEAST: i64 = 600;
const MOST: i64 = 1 << 32;

fn named(object: &Value) -> Named {
    Named { name: object::name(object).to_owned(), uid: object::meta(object, "uid").to_owned() }
}

impl Inner {
    /// Makes a token of a service account.
    pub(crate) fn request_token(&self, method: &Method, change: &Change<'_>) -> Result<Answer, Status> {
        if *method != Method::POST {
            return Err(Status::method_not_allowed());
        }
        let request = change.request;
        let entry = self.store.get(&self.key(request, &request.name)).ok_or_else(|| request.not_found())?;
        let account = respond::parse(entry.json())?;
        let mut wanted = decode::object(change.headers, change.body)?;
        if !wanted.is_object() {
            return Err(Status::bad_request("the body of a request for a token is a TokenRequest"));
        }
        (wanted["kind"], wanted["apiVersion"]) = (json!("TokenRequest"), json!("authentication.k8s.io/v1"));
        let seconds = lifetime(&mut wanted)?;
        let spec = &wanted["spec"];
        let asked: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let audiences = if asked.is_empty() { own_audiences() } else { asked };
        let mut private = Private {
            namespace: request.namespace.clone(),
            serviceaccount: named(&account),
            pod: None,
            node: None,
            secret: None,
        };
        self.bind_token(&wanted["spec"]["boundObjectRef"], &mut private)?;
        self.check_agent(change.user, &private)?;
        let now = Timestamp::now();
        let end = now.as_second() + seconds;
        let claims = Claims {
            aud: audiences.clone(),
            exp: end,
            iat: now.as_second(),
            iss: ISSUER.to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: dray_access::service_account(&request.namespace, &request.name).name,
            nbf: now.as_second(),
            kubernetes: private,
        };
        let until = now.checked_add(SignedDuration::from_secs(seconds)).map_err(Status::internal)?;
        if wanted["metadata"].is_null() {
            wanted["metadata"] = json!({});
        }
        for (field, value) in [
            ("name", request.name.as_str()),
            ("namespace", &request.namespace),
            ("creationTimestamp", &time::seconds(now)),
        ] {
            wanted["metadata"][field] = json!(value);
        }
        wanted["spec"]["audiences"] = json!(audiences);
        if !request.dry_run()? {
            let token = self.signer.sign(&claims).map_err(Status::internal)?;
            wanted["status"] = json!({ "token": token, "expirationTimestamp": time::seconds(until) });
        }
        Ok(respond::value(StatusCode::CREATED, change.accept.encoding, &wanted))
    }

    /// A node's agent asks for tokens of the pods that are bound to its node only (the plugin NodeRestriction).
    fn check_agent(&self, user: &User, private: &Private) -> Result<(), Status> {
        let Some(agent) = node_of(user) else { return Ok(()) };
        let refused = |why: &str| Status::forbidden("", "serviceaccounts", &private.serviceaccount.name, why);
        let Some(pod) = &private.pod else {
            return Err(refused("node requested token not bound to a pod"));
        };
        let stored = self.store.get(&Key::new("core/pods", format!("{}/{}", private.namespace, pod.name)));
        let stored = stored.map(|entry| respond::parse(entry.json())).transpose()?.unwrap_or_default();
        if object::text(&stored, &["spec", "nodeName"]) == agent && object::meta(&stored, "uid") == pod.uid {
            Ok(())
        } else {
            Err(refused("node requested token bound to a pod scheduled on a different node"))
        }
    }

    /// Binds a token to the object that is named.
    fn bind_token(&self, reference: &Value, private: &mut Private) -> Result<(), Status> {
        if !reference.is_object() {
            return Ok(());
        }
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let (name, uid) = (text("name"), text("uid"));
        let (resource, plural, namespace) = match (text("apiVersion"), text("kind")) {
            ("" | "v1", "Pod") => ("core/pods", "pods", private.namespace.as_str()),
            ("" | "v1", "Secret") => ("core/secrets", "secrets", private.namespace.as_str()),
            ("" | "v1", "Node") => ("core/nodes", "nodes", ""),
            (version, kind) => {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount to object of type {version}, Kind={kind}"
                )));
            }
        };
        let stored = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let entry = self.store.get(&Key::new(resource, stored));
        let entry = entry.ok_or_else(|| Status::not_found("", plural, name))?;
        let object = respond::parse(entry.json())?;
        let bound = named(&object);
        if !uid.is_empty() && uid != bound.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            );
            return Err(Status::conflict("", plural, name, why));
        }
        match plural {
            "pods" => {
                let account = object::text(&object, &["spec", "serviceAccountName"]);
                if account != private.serviceaccount.name {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        private.serviceaccount.name
                    )));
                }
                let node = object::text(&object, &["spec", "nodeName"]);
                let node = self.store.get(&Key::new("core/nodes", node));
                private.node = node.and_then(|node| respond::parse(node.json()).ok()).as_ref().map(named);
                private.pod = Some(bound);
            }
            "secrets" => private.secret = Some(bound),
            _ => private.node = Some(bound),
        }
        Ok(())
    }
}

/// For how long the token shall hold, in seconds, written into the request where that does not say.
fn lifetime(wanted: &mut Value) -> Result<i64, Status> {
    if !wanted["spec"].is_object() {
        wanted["spec"] = json!({});
    }
    let given = &mut wanted["spec"]["expirationSeconds"];
    if given.is_null() {
        *given = json!(SECONDS);
    }
    let seconds = given.as_i64().unwrap_or_default();
    let mut errors = FieldErrors::default();
    if seconds < LEAST {
        errors.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > MOST {
        errors.invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if errors.is_empty() {
        Ok(seconds)
    } else {
        Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", errors.as_slice()))
    }
}
