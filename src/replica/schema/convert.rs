//! Columns of the guide's tables that someone made with another type: those that can hold the same are changed,
//! values counted before and after; the others are refused by name.

use tokio_postgres::Client;

use super::{
    CORE_STREAM, Error,
    check::{quoted, text},
};

struct Column {
    table: String,
    name: String,
    is: String,
    wanted: String,
}

/// Plain tables of the core's names become tables in parts, with all of their rows.
pub(super) async fn convert_core(client: &Client) -> Result<Vec<String>, Error> {
    let mut done = convert(client, CORE_STREAM).await?;
    done.extend(text(client, "SELECT unnest(public.keytide_convert_core())").await?.into_iter().flatten());
    Ok(done)
}

/// Within the caller's transaction, and before triggers look at the columns.
pub(super) async fn convert(client: &Client, prefix: &str) -> Result<Vec<String>, Error> {
    let rows = text(
        client,
        &format!(
            "SELECT c.relname, a.attname, split_part(format_type(a.atttypid, NULL), '(', 1), w.types[1]
             FROM public.keytide_wanted({0}) w
             JOIN pg_class c ON c.relname = w.part AND c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = w.name AND NOT a.attisdropped
             WHERE split_part(format_type(a.atttypid, NULL), '(', 1) <> ALL (w.types)
               -- Users and shared keys that are known by anything but a uuid are somebody else's.
               AND ({0} <> 'core' OR w.part NOT IN ('users', 'shared_keys') OR EXISTS (
                   SELECT 1 FROM pg_attribute i WHERE i.attrelid = c.oid AND i.attname = 'id' AND i.atttypid = 'uuid'::regtype))
             ORDER BY 1, 2",
            quoted(prefix)
        ),
    )
    .await?;
    let mut done = Vec::new();
    for row in rows {
        let [table, name, is, wanted] = <[String; 4]>::try_from(row)
            .map_err(|_| Error::Refused("the database gave an answer of another shape".to_owned()))?;
        done.push(column(client, &Column { table, name, is, wanted }).await?);
    }
    Ok(done)
}

async fn column(client: &Client, column: &Column) -> Result<String, Error> {
    let Column { table, name, is, wanted } = column;
    let Some(using) = expression(name, is, wanted) else {
        return Err(Error::Unsafe(format!(
            "the column {table}.{name} is of type {is}, and nobody knows how that becomes {wanted}: rename the column or \
             the table, then run this again"
        )));
    };
    let rows_before = count(client, table, name).await?;
    let default = text(
        client,
        &format!(
            "SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
             JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
             WHERE d.adrelid = {}::regclass AND a.attname = {}",
            quoted(&format!("public.{table}")),
            quoted(name)
        ),
    )
    .await?;
    let mut sql = format!(
        "ALTER TABLE public.\"{table}\" ALTER COLUMN \"{name}\" DROP DEFAULT, ALTER COLUMN \"{name}\" TYPE {wanted} USING {using}"
    );
    if !default.is_empty() {
        let default = match wanted.as_str() {
            "bigint" | "integer" | "numeric" => Some("0"),
            "timestamp with time zone" => Some("now()"),
            "boolean" => Some("false"),
            _ if name == "status" => Some("'active'"),
            _ => None,
        };
        if let Some(default) = default {
            sql.push_str(&format!(", ALTER COLUMN \"{name}\" SET DEFAULT {default}"));
        }
    }
    client.batch_execute(&sql).await?;
    let rows_after = count(client, table, name).await?;
    if rows_before != rows_after {
        return Err(Error::Unsafe(format!(
            "the column {table}.{name} held {rows_before:?} (rows, values, sum) as {is} and {rows_after:?} as {wanted}; \
             nothing was changed"
        )));
    }
    Ok(format!("changed column {table}.{name} from {is} to {wanted}"))
}

/// Rows and values; of numbers their sum too.
async fn count(client: &Client, table: &str, name: &str) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT count(*), count(\"{name}\"), sum(CASE WHEN \"{name}\"::text ~ '^-?[0-9]+$' THEN \"{name}\"::text::numeric END)
         FROM public.\"{table}\""
    );
    Ok(text(client, &sql).await?.into_iter().flatten().collect())
}

fn expression(name: &str, is: &str, wanted: &str) -> Option<String> {
    let number = matches!(is, "smallint" | "integer" | "bigint" | "numeric" | "double precision" | "real");
    let words = matches!(is, "text" | "character varying" | "character");
    Some(match wanted {
        "timestamp with time zone" if is == "timestamp without time zone" => {
            format!("\"{name}\" AT TIME ZONE 'UTC'")
        }
        "timestamp with time zone" if is == "date" => format!("\"{name}\"::timestamp AT TIME ZONE 'UTC'"),
        "timestamp with time zone" if words => format!("nullif(\"{name}\", '')::timestamptz"),
        // Programs that count in milliseconds, told by the size of the number.
        "timestamp with time zone" if number => {
            format!(
                "to_timestamp(CASE WHEN \"{name}\" > 100000000000 THEN \"{name}\" / 1000.0 ELSE \"{name}\" END)"
            )
        }
        "bigint" | "integer" | "numeric" if number || words => format!("\"{name}\"::{wanted}"),
        "jsonb" if is == "json" || words => format!("\"{name}\"::jsonb"),
        "jsonb" if is == "text[]" || is == "character varying[]" => format!("to_jsonb(\"{name}\")"),
        "boolean" if words || number => format!("\"{name}\"::text::boolean"),
        // Enumerations, identifiers and the like all have a text.
        "text" if is != "bytea" => format!("\"{name}\"::text"),
        _ => return None,
    })
}
